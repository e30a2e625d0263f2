#!/bin/bash
# The installed tree works by itself: the command, pkg-config, the CMake package.
#   install.sh BUILD_DIR CC
set -eu
build=$1
cc=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

DESTDIR='' cmake --install "$build" --prefix "$dir/usr" >/dev/null
[ "$("$dir/usr/bin/larder" run --limit 64M -- echo hello)" = hello ]
grep -q "TH LARDER" "$dir/usr/share/man/man1/larder.1"

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

echo 'extern "C" int puts(const char *);
#include <larder/larder.h>
int main() { return larder_version()[0] == 0; }' >"$dir/main.cc"
if command -v g++ >/dev/null; then
	# shellcheck disable=SC2046
	g++ -Wall -Werror "$dir/main.cc" -o "$dir/maincc" $(pkg-config --cflags --libs larder)
	"$dir/maincc"
fi
echo "the installed command, pkg-config file and CMake package work"
