#!/bin/bash
# The installed tree works by itself: the command, pkg-config, the CMake package, the manual pages, the examples.
#   install.sh BUILD_DIR CC
set -eu
build=$1
cc=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

DESTDIR='' cmake --install "$build" --prefix "$dir/usr" >/dev/null
[ "$("$dir/usr/bin/larder" run --limit 64M -- echo hello)" = hello ]

"$dir/usr/bin/larder" bench alloc --pages 1024 --runs 1 | grep -q "under larder run"

cat >"$dir/main.c" <<'C'
#include <larder/larder.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void)
{
	struct larder_options o = { .limit_bytes = 64u << 20 };
	struct larder_stats s;
	int err = larder_start(&o);
	if (err || larder_start(&o) != -114 /* EALREADY */)
		return printf("larder_start: %d\n", err), 1;
	char *p = malloc(32 << 20);
	memset(p, 1, 32 << 20);
	if (larder_reclaim(16 << 20) < 16 << 20 || larder_get_stats(&s) || s.evictions < 4096)
		return printf("larder_reclaim\n"), 1;
	for (int i = 0; i < 32 << 20; i++)
		if (p[i] != 1)
			return printf("byte %d\n", i), 1;
	return strcmp(larder_version(), LARDER_VERSION_STRING) != 0;
}
C
libdir=$(dirname "$(find "$dir/usr" -name liblarder.so)")
export PKG_CONFIG_PATH=$libdir/pkgconfig LD_LIBRARY_PATH=$libdir
# shellcheck disable=SC2046
"$cc" -Wall -Werror "$dir/main.c" -o "$dir/main" $(pkg-config --cflags --libs larder)
"$dir/main"

mkdir "$dir/project"
cat >"$dir/project/CMakeLists.txt" <<'C'
cmake_minimum_required(VERSION 3.20)
project(user C)
find_package(larder 0.2 REQUIRED)
add_executable(user ../main.c)
target_link_libraries(user larder::larder jemalloc)
C
cmake -S "$dir/project" -B "$dir/project/build" -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$dir/usr" >/dev/null
cmake --build "$dir/project/build" >/dev/null
"$dir/project/build/user"

# A pool and a volatile range, in what C and C++ have in common.
cat >"$dir/pool.c" <<'C'
#include <larder/larder.h>
#include <stdio.h>
#include <string.h>
#define CHECK(what) do { if (!(what)) return printf("not so: %s\n", #what), 1; } while (0)
int main(void)
{
	struct larder_pool_options options;
	larder_pool *pool;
	void *pages;
	size_t bytes = 1 << 20;
	memset(&options, 0, sizeof(options));
	options.limit_bytes = 8 << 20;
	CHECK(larder_start(NULL) == 0);
	CHECK(larder_pool_create(&pool, &options) == 0);
	CHECK(larder_pages_alloc(pool, bytes, &pages) == 0);
	memset(pages, 1, bytes);
	CHECK(larder_volatile(pool, pages, bytes, NULL) == 0);
	CHECK(larder_nonvolatile(pool, pages, bytes, 0, NULL) == LARDER_INTACT);
	CHECK(((char *)pages)[bytes - 1] == 1);
	CHECK(larder_volatile(pool, pages, bytes, NULL) == 0);
	CHECK(larder_purge(pool, LARDER_PRIORITY_MAX, bytes) == (int64_t)bytes);
	CHECK(larder_nonvolatile(pool, pages, bytes, LARDER_ACKNOWLEDGE, NULL) == LARDER_PURGED);
	CHECK(((char *)pages)[bytes - 1] == 0);
	CHECK(larder_pool_destroy(pool) == 0);
	return 0;
}
C
for language in c c++; do
	compiler=$cc
	[ "$language" = c ] || compiler=g++
	# shellcheck disable=SC2046
	"$compiler" -Wall -Werror -x "$language" "$dir/pool.c" -x none -o "$dir/pool" $(pkg-config --cflags --libs larder)
	"$dir/pool"
done

# Every symbol has a version, so that later ones can be told from those of today; every function of the header is there. Two stand in front of
# libc's and have its versions.
symbols=$(nm -D --defined-only --with-symbol-versions "$libdir/liblarder.so" | awk '$2 != "A" { print $3 }')
if unversioned=$(grep -vE '@@LARDER_0\.[12]$|^(_Fork@@GLIBC_2\.34|__register_atfork@@GLIBC_2\.3\.2)$' <<<"$symbols"); then
	echo "symbols without a version: $unversioned"
	exit 1
fi
for name in start reclaim get_stats version; do
	grep -q "^larder_$name@@LARDER_0.1$" <<<"$symbols"
done
declared=$("$cc" -E -P -I"$dir/usr/include" "$dir/usr/include/larder/larder.h" | grep -o '\blarder_[a-z_]*(' | tr -d '(' |
	grep -vE '^larder_(latency_floor_ns|refill_fn|start|reclaim|get_stats|version)$' | sort)
exported=$(sed -n 's/@@LARDER_0\.2$//p' <<<"$symbols" | sort)
diff <(echo "$declared") <(echo "$exported")

for page in man1/larder.1 man1/larder-bench.1 man3/larder.3 man7/larder-volatile.7; do
	[ -s "$dir/usr/share/man/$page" ]
done
for function in $declared; do
	grep -q "\b$function(" "$dir/usr/share/man/man3/larder.3" || { echo "larder(3) lacks $function"; exit 1; }
done
examples=$(dirname "$(find "$dir/usr" -name image_cache.c)")
for example in image_cache refill_table; do
	# shellcheck disable=SC2046
	"$cc" -Wall -Werror -D_GNU_SOURCE "$examples/$example.c" -o "$dir/$example" $(pkg-config --cflags --libs larder)
	"$dir/$example"
done
echo "the installed command, library, pkg-config file, CMake package, manual pages and examples work"
