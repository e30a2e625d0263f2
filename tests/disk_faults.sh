#!/bin/bash
# What befalls a swap file or device in operation, beneath unmodified programs: pages stay in RAM, larder stat and the log say why, and when
# the fault clears all goes on by itself. A small filesystem on a loop device stands in for the disk.
#   disk_faults.sh LARDER CC
set -u
larder=$(realpath "$1")
cc=$2
[ "$(id -u)" = 0 ] || { echo "not root: no filesystem can be mounted"; exit 77; }
dir=$(mktemp -d -p /var/tmp) # not in RAM, where /tmp may be
small=$dir/small
device=
pid=
checks=0
failures=0

make_small() {
	rm -f "$dir/image"
	truncate -s "$1" "$dir/image"
	mkfs.ext4 -q -F -m 0 "$dir/image" && mount -o loop "$dir/image" "$small"
}
umount_small() { # the kernel takes the rings of a process apart in the background
	for ((i = 0; i < 50; i++)); do
		umount "$small" 2>/dev/null
		mountpoint -q "$small" || return 0
		sleep 0.1
	done
	return 1
}
clean_up() {
	[ -n "$pid" ] && kill -9 "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
	fsfreeze -u "$small" 2>/dev/null
	[ -z "$device" ] || losetup -d "$device"
	umount_small
	rm -rf "$dir"
}
trap clean_up EXIT

mkdir "$small"
make_small 64M || { echo "no filesystem can be mounted on a loop device"; exit 77; }

cat >"$dir/steady.c" <<'C'
/*
 * steady MIB [descriptors]: a heap, half of which does not compress, is read and rewritten at random, and every word is checked, until
 * SIGTERM; then all of it once more. Prints the longest time that one block of 64 KiB took. "descriptors": there is no free one.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { WORDS = (64 << 10) / 8, BLOCKS_MAX = 1 << 14 };

static uint64_t *block[BLOCKS_MAX], seed[BLOCKS_MAX];
static volatile sig_atomic_t ends;

static void on_end(int signal)
{
	(void)signal;
	ends = 1;
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
	return x ^ x >> 33;
}

static uint64_t word(uint64_t s, size_t i)
{
	return s % 2 || i % 16 == 0 ? mix(s * WORDS + i + 1) : s;
}

static void fill(size_t b)
{
	for (size_t i = 0; i < WORDS; i++)
		block[b][i] = word(seed[b], i);
}

static void verify(size_t b)
{
	for (size_t i = 0; i < WORDS; i++)
		if (block[b][i] != word(seed[b], i)) {
			printf("block %zu is wrong at word %zu\n", b, i);
			exit(3);
		}
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	size_t blocks = strtoul(argv[1], NULL, 10) * 16;
	uint64_t random = 1, longest = 0;

	signal(SIGTERM, on_end);
	while (argc > 2 && open("/dev/null", O_RDONLY) >= 0)
		;
	for (size_t b = 0; b < blocks; b++) {
		block[b] = malloc(WORDS * 8);
		seed[b] = mix(b);
		fill(b);
	}
	while (!ends) {
		uint64_t start = now_ms(), took;
		size_t b = mix(random++) % blocks;

		verify(b);
		seed[b] = mix(random);
		fill(b);
		took = now_ms() - start;
		longest = took > longest ? took : longest;
	}
	for (size_t b = 0; b < blocks; b++)
		verify(b);
	printf("all right, longest %llu ms\n", (unsigned long long)longest);
	return 0;
}
C
"$cc" -O2 -o "$dir/steady" "$dir/steady.c" || exit 1

fail() {
	echo "FAILED: $name: $*" >&2
	tail -n 3 "$dir/log" "$dir/out" >&2
	failures=$((failures + 1))
}

# begin NAME MIB OPTION...: a heap of MIB beneath a limit of 32 MiB; $wrap may limit what it may have
begin() {
	local mib=$2
	name=$1
	shift 2
	: >"$dir/log"
	: >"$dir/out"
	${wrap:-} "$larder" run --limit 32M --log "$dir/log" "$@" -- "$dir/steady" "$mib" ${descriptors:-} >"$dir/out" 2>&1 &
	pid=$!
}

# number KEY: of the disk
number() {
	"$larder" stat --json "$pid" 2>/dev/null | sed -n 's/.*"disk":{\(.*\)/\1/p' | sed -n "s/^.*\"$1\":\([0-9]*\).*/\1/p"
}

# wait_for SECONDS TEST...: until the test is true
wait_for() {
	local i seconds=$1
	shift
	checks=$((checks + 1))
	for ((i = 0; i < seconds * 10; i++)); do
		"$@" && return
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	fail "not within $seconds s: $*"
	return 1
}

more_than() { # KEY N
	local n
	n=$(number "$1")
	[ -n "$n" ] && [ "$n" -gt "$2" ]
}
refuses() { # ERRNO
	[ "$(number refusing)" = "$1" ]
}
logged() {
	checks=$((checks + 1))
	grep -q "$1" "$dir/log" || fail "the log does not say '$1'"
}

# recovers: writing goes on, and it is said
recovers() {
	local written
	written=$(number write_bytes)
	wait_for 30 grep -q "writing works again" "$dir/log" && wait_for 10 more_than write_bytes $((written + (1 << 20)))
}

# ends: every word is right, and nothing was lost; sets $longest
ends() {
	local poisoned
	checks=$((checks + 1))
	poisoned=$("$larder" stat --json "$pid" | grep -o '"poisoned":[0-9]*')
	kill -TERM "$pid"
	wait "$pid" || fail "exit status $?"
	pid=
	grep -q "all right" "$dir/out" || fail "it says: $(cat "$dir/out")"
	[ "$poisoned" = '"poisoned":0' ] || fail "$poisoned"
	longest=$(sed -n 's/.*longest \([0-9]*\) ms/\1/p' "$dir/out")
	echo "$name: $(cat "$dir/out")"
}

# Everything that is left of the small filesystem, but for KIB.
fill_up() {
	local left
	left=$(df --output=avail -k "$small" | tail -n 1)
	dd if=/dev/zero of="$small/others" bs=1k count=$((left - ${1:-0})) status=none 2>/dev/null
	sync -f "$small"
}
ENOSPC=28 EFBIG=27 ETIMEDOUT=110

fill_up
begin "full before it begins" 64 --swap-dir "$small" --swap-size 64M
wait_for 20 refuses $ENOSPC && wait_for 10 more_than refused 0
logged "writing has failed (errno 28: no space is left)"
rm "$small/others"
recovers
ends

begin "filled by others meanwhile" 64 --swap-dir "$small" --swap-size 64M
wait_for 20 more_than write_bytes $((4 << 20))
fill_up
wait_for 20 refuses $ENOSPC
rm "$small/others"
recovers
ends

begin "full of itself" 128 --swap-dir "$small" --swap-size 256M --swap-encrypt
wait_for 20 refuses $ENOSPC && wait_for 10 more_than occupied_bytes $((32 << 20))
ends

wrap="prlimit --fsize=8388608:unlimited"
begin "a limit of file size" 64 --swap-dir "$small" --swap-size 64M
wrap=
wait_for 20 refuses $EFBIG && wait_for 10 more_than write_bytes $((4 << 20))
prlimit --pid "$pid" --fsize=unlimited
recovers
ends

descriptors=descriptors
begin "no descriptor is free" 64 --swap-dir "$small" --swap-size 64M
descriptors=
wait_for 20 more_than write_bytes $((16 << 20)) && prlimit --pid "$pid" --nofile=0
already=$(number read_bytes)
wait_for 20 more_than read_bytes $((already + (8 << 20)))
ends

begin "a stall of writes" 64 --swap-dir "$small" --swap-size 64M
wait_for 20 more_than write_bytes $((8 << 20))
fsfreeze -f "$small"
wait_for 5 refuses $ETIMEDOUT
sleep 5
fsfreeze -u "$small"
recovers
ends
checks=$((checks + 1))
[ "${longest:-9999}" -lt 4000 ] || fail "somebody waited for $longest ms"

# What is beneath the device is full. With its own page cache a loop device says that writes have succeeded which have not.
umount_small && make_small 96M && truncate -s 64M "$small/device"
if device=$(losetup -f --show --direct-io=on "$small/device" 2>/dev/null); then
	fill_up 8192
	begin "a device that fails" 64 --swap-device "$device"
	wait_for 20 refuses $ENOSPC
	rm "$small/others"
	recovers
	ends
else
	device=
	echo "no loop device: a device that fails is left out"
fi

echo "$checks checks, $failures failed"
[ "$failures" = 0 ]
