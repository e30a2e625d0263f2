#!/bin/sh
# Proves that the code on the fault and reclaim paths cannot call malloc, stdio or anything else of libc that may touch managed
# memory: the objects may refer to each other and to the names below, and to nothing else.
#   internal_objects.sh OBJECT...      all objects of the library; those of program threads are left out here
set -eu

# What internal threads may call. Memory functions work on what they are given; clock_gettime is the vDSO's; LZ4, xxhash and the ciphers
# are called with memory of ours; of liburing and libsodium just these functions, none of which allocates (sodium_init() is called once,
# when the disk is opened). The sanitizers' names are in sanitizer builds only.
libc='memcpy|memmove|memset|memcmp|strlen|clock_gettime'
uring='io_uring_(get_events|queue_exit|queue_init_params|register_buffers|register_eventfd|register_files|ring_dontfork|submit|submit_and_wait_timeout)|__io_uring_get_cqe|io_uring_get_sqe'
sodium='sodium_init|sodium_memzero|crypto_aead_aes256gcm_(beforenm|(de|en)crypt_afternm|is_available)|crypto_aead_chacha20poly1305_ietf_(de|en)crypt'
allowed="^($libc|LZ4_[A-Za-z_]*|XXH3_64bits_withSeed|$uring|$sodium|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_|__(asan|ubsan|tsan|sanitizer)_.*)\$"

# Objects that run on program threads only: allocator hooks, the public functions, fork, the SIGBUS handler, the command line's parser.
program='^(api|arena|core_dump|fork|larder|preload|process|limit|shared_open|sigbus)\.'

list=$(mktemp)
trap 'rm -f "$list"' EXIT
for object in "$@"; do
	basename "$object" | grep -Eq "$program" || echo "$object" >>"$list"
done
count=$(wc -l <"$list")
[ "$count" -ge 10 ] || { echo "only $count objects to check: the list is wrong" >&2; exit 1; }

defined=$(xargs nm --defined-only <"$list" | awk 'NF == 3 { print $3 }' | sort -u)
bad=0
while read -r object; do
	for symbol in $(nm -u "$object" | awk '{ print $NF }'); do
		echo "$symbol" | grep -Eq "$allowed" && continue
		echo "$defined" | grep -qx -- "$symbol" && continue
		echo "$(basename "$object") refers to $symbol" >&2
		bad=1
	done
done <"$list"
[ "$bad" = 0 ] && echo "$count objects refer to nothing that could touch managed memory"
exit "$bad"
