#!/bin/bash
# The command's answers to bad input: one line on standard error that names the cause, and the documented exit status.
#   cli.sh LARDER CC
set -u
larder=$(realpath "$1")
cc=$2
dir=$(mktemp -d)
disk=$(mktemp -d -p /var/tmp) # not in RAM, where /tmp may be
failures=0
checks=0
restore=:
trap '$restore; rm -rf "$dir" "$disk"' EXIT

# expect STATUS TEXT COMMAND...: the status, one line, and TEXT in it
expect() {
	local status=$1 text=$2 out got
	shift 2
	checks=$((checks + 1))
	out=$("$@" 2>&1 >/dev/null)
	got=$?
	if [ "$got" != "$status" ] || [ "$(printf '%s\n' "$out" | wc -l)" != 1 ] || [[ "$out" != *"$text"* ]]; then
		printf 'FAILED: %s\n  exit status %s, expected %s\n  said: %s\n  expected: one line with "%s"\n' "$*" "$got" "$status" "$out" "$text" >&2
		failures=$((failures + 1))
	fi
}

# succeeds TEXT COMMAND...: exit status 0, TEXT in the output, nothing on standard error
succeeds() {
	local text=$1 out
	shift
	checks=$((checks + 1))
	out=$("$@" 2>"$dir/err") && [[ "$out" == *"$text"* ]] && [ ! -s "$dir/err" ] && return
	printf 'FAILED: %s\n  printed: %s\n  on standard error: %s\n' "$*" "$out" "$(cat "$dir/err")" >&2
	failures=$((failures + 1))
}

as_nobody() {
	setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

# ---- what works ----
succeeds "Usage" "$larder" --help
succeeds "Usage" "$larder" run --help
succeeds "Usage" "$larder" help stat
succeeds "larder 0." "$larder" --version
succeeds "hello" "$larder" run -- echo hello
succeeds "hello" "$larder" run --limit 64M echo hello
succeeds "hello" "$larder" run --limit 50% -- sh -c 'echo hello'
printf '#!/bin/sh\necho script\n' >"$dir/script" && chmod +x "$dir/script"
succeeds "script" "$larder" run "$dir/script"
expect 7 "" "$larder" run -- sh -c 'exit 7'

# ---- limits ----
for limit in "" abc -1 5Q 1,5G " 1G" "50 %"; do
	expect 125 "the limit '$limit' is not a size" "$larder" run --limit "$limit" true
done
for limit in 0 1k 15M 0% 101% 99999999999T; do
	expect 125 "the limit '$limit' is out of range" "$larder" run --limit "$limit" true
done

# ---- swap ----
file=$dir/file
: >"$file"
expect 125 "--swap-dir and --swap-device were both given" "$larder" run --swap-dir "$disk" --swap-device /dev/loop0 true
expect 125 "--swap-size was given without a place" "$larder" run --swap-size 1G true
expect 125 "--swap-encrypt was given without a place" "$larder" run --swap-encrypt true
for option in "--swap-dir=$disk" --swap-device=/dev/loop0 --swap-size=1G --swap-encrypt; do
	expect 125 "--no-swap was given with another option" "$larder" run --no-swap "$option" true
done
for size in "" abc 50% -1 5Q; do
	expect 125 "the swap size '$size' is not a size" "$larder" run --swap-dir "$disk" --swap-size "$size" true
done
for size in 0 63M 17T 99999999999T; do
	expect 125 "the swap size '$size' is out of range" "$larder" run --swap-dir "$disk" --swap-size "$size" true
done
expect 125 "'/nonexistent': there is no such directory" "$larder" run --swap-dir /nonexistent true
expect 125 "'': there is no such directory" "$larder" run --swap-dir '' true
expect 125 "'$file': it is not a directory" "$larder" run --swap-dir "$file" true
[ "$(stat -f -c %T /dev/shm)" = tmpfs ] && expect 125 "'/dev/shm': it is in RAM" "$larder" run --swap-dir /dev/shm true
expect 125 "'/nonexistent': there is no such device" "$larder" run --swap-device /nonexistent true
for device in "$file" "$disk" /dev/null; do
	expect 125 "'$device': it is not a block device" "$larder" run --swap-device "$device" true
done
succeeds "hello" "$larder" run --swap-dir "$disk" -- echo hello
succeeds "LARDER_SWAP_DIR=$disk" env -C "$disk" "$larder" run --swap-dir . --swap-size 64M --swap-encrypt env
expect 125 "LARDER_SWAP_SIZE: 'x'" "$larder" run -- env LARDER_SWAP_SIZE=x true
expect 125 "LARDER_SWAP_ENCRYPT: 'yes'" "$larder" run -- env LARDER_SWAP_ENCRYPT=yes true
expect 125 "cannot swap to '/nonexistent'" "$larder" run -- env LARDER_SWAP_DIR=/nonexistent true

no_swap_is_inherited() {
	LARDER_SWAP_DIR=/nonexistent LARDER_SWAP_SIZE=x LARDER_SWAP_ENCRYPT=x "$larder" run "$@" -- env >"$dir/env" && ! grep -q LARDER_SWAP "$dir/env" && echo yes
}
succeeds yes no_swap_is_inherited

# ---- programs that the program executes ----
# who_is_managed OPTIONS [LD_PRELOAD]: whether the program is, whether one is that it executes, and what that finds in its environment
who_is_managed() {
	env -u LD_PRELOAD ${2:+LD_PRELOAD="$2"} "$larder" run --limit 64M $1 -- \
		sh -c 'echo "program $(grep -c larder-stats </proc/$$/maps)"; sh -c "cat /proc/\$\$/maps; env; true"' >"$dir/who"
	head -n 1 "$dir/who" | tr '\n' ' '
	printf 'executed %s: %s.' "$(grep -c larder-stats "$dir/who")" "$(grep -oE '^(LARDER_FOLLOW_EXEC|LD_PRELOAD)=.*' "$dir/who" | sort | tr '\n' ' ')"
}
succeeds "program 1 executed 1: LARDER_FOLLOW_EXEC=1 LD_PRELOAD=/" who_is_managed --follow-exec
succeeds "program 1 executed 1: LARDER_FOLLOW_EXEC=1 LD_PRELOAD=/" who_is_managed ""
succeeds "program 1 executed 0: ." who_is_managed --no-follow-exec
succeeds "program 1 executed 0: ." who_is_managed "--follow-exec --no-follow-exec"
succeeds "program 1 executed 0: LD_PRELOAD=libpthread.so.0 ." who_is_managed --no-follow-exec libpthread.so.0

cat >"$dir/fill.c" <<'C'
/* Fill 128 MiB with what does not compress, verify it twice, say so, and wait. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
enum { BLOCKS = 128, WORDS = (1 << 20) / 8 };
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
	return x ^ x >> 33;
}
int main(void)
{
	static uint64_t *block[BLOCKS];
	for (uint64_t b = 0; b < BLOCKS; b++) {
		block[b] = malloc(WORDS * 8);
		for (uint64_t i = 0; i < WORDS; i++)
			block[b][i] = mix(b * WORDS + i + 1);
	}
	for (int turn = 0; turn < 2; turn++)
		for (uint64_t b = 0; b < BLOCKS; b++)
			for (uint64_t i = 0; i < WORDS; i++)
				if (block[b][i] != mix(b * WORDS + i + 1))
					return 3;
	puts("verified");
	fflush(stdout);
	sleep(60);
	return 0;
}
C
"$cc" -O1 -o "$dir/fill" "$dir/fill.c"

# fills PLACE...: a heap of four times the limit, all of which has to be on disk at some time, is right; sets $pid
fills() {
	local i
	checks=$((checks + 1))
	: >"$dir/filled"
	"$larder" run --limit 32M "$@" -- "$dir/fill" >"$dir/filled" &
	pid=$!
	for ((i = 0; i < 600; i++)); do
		sleep 0.1
		grep -q verified "$dir/filled" && return
		kill -0 "$pid" 2>/dev/null || break
	done
	echo "FAILED: run --limit 32M $* fill" >&2
	failures=$((failures + 1))
}
disk_objects() {
	"$larder" stat --json "$pid" | sed -n 's/.*"disk":{[^}]*"objects":\([0-9]*\).*/\1/p'
}
many_disk_objects() {
	[ "$(disk_objects)" -gt 16384 ] && echo yes # 64 MiB
}
fills --swap-dir "$disk" --swap-size 256M --swap-encrypt
succeeds yes many_disk_objects
succeeds '"kind":"file","encrypted":true,"limit_bytes":268435456' "$larder" stat --json "$pid"
succeeds 'MiB of 256.0 occupied, in a file, encrypted' "$larder" stat "$pid"
succeeds 'disk reads, us:  p50 ' "$larder" stat "$pid"
checks=$((checks + 1))
[ -z "$(ls -A "$disk")" ] || { echo "FAILED: the swap file has a name" >&2; failures=$((failures + 1)); }
kill "$pid"

# ---- usage ----
expect 125 "no PROGRAM" "$larder" run
expect 125 "needs a value" "$larder" run --limit
expect 125 "no option '--bad'" "$larder" run --bad true
expect 125 "no command 'bad'" "$larder" bad
expect 125 "cannot write the log" "$larder" run --log /nonexistent/log true

# ---- programs ----
expect 127 "'no-such-program' is not on the PATH" "$larder" run no-such-program
expect 127 "there is no './no-such-program'" "$larder" run ./no-such-program
expect 126 "not an executable file" "$larder" run /etc/passwd
expect 126 "not an executable file" "$larder" run /tmp
printf '#!/no/such/interpreter\n' >"$dir/orphan" && chmod +x "$dir/orphan"
expect 126 "/no/such/interpreter" "$larder" run "$dir/orphan"
printf 'neither\n' >"$dir/neither" && chmod +x "$dir/neither"
expect 126 "neither a program nor a script" "$larder" run "$dir/neither"
echo 'int main(void) { return 0; }' >"$dir/main.c"
if "$cc" -static -o "$dir/static" "$dir/main.c" 2>/dev/null; then
	expect 126 "statically linked" "$larder" run "$dir/static"
	printf '#!%s\n' "$dir/static" >"$dir/static-script" && chmod +x "$dir/static-script"
	expect 126 "statically linked" "$larder" run "$dir/static-script"
fi
"$cc" -o "$dir/dynamic" "$dir/main.c"
cp "$dir/dynamic" "$dir/foreign" && printf '\003' | dd of="$dir/foreign" bs=1 seek=18 conv=notrunc status=none
expect 126 "not an x86-64 program" "$larder" run "$dir/foreign"

# ---- statistics ----
expect 125 "not a process number" "$larder" stat abc
expect 125 "one process number" "$larder" stat
expect 125 "not a positive number" "$larder" stat --interval x 1
expect 1 "there is no process 4194305" "$larder" stat 4194305
sleep 30 &
expect 1 "does not run under Larder" "$larder" stat $!
kill $!
"$larder" run --limit 64M sleep 30 &
for _ in 1 2 3 4 5 6 7 8 9 10; do
	sleep 0.1
	"$larder" stat $! >/dev/null 2>&1 && break
done
succeeds "limit            64.0 MiB" "$larder" stat $!
succeeds '"limit_bytes":67108864' "$larder" stat --json $!
succeeds '"p99_9"' "$larder" stat --json $!
kill $!

# ---- the machine ----
expect 125 "Linux 6.8 or newer" setarch --uname-2.6 "$larder" run true
if [ "$(id -u)" = 0 ]; then
	chmod 755 "$dir"
	chown nobody "$dir/dynamic" && chmod u+s "$dir/dynamic"
	expect 126 "setuid" "$larder" run "$dir/dynamic"
	chmod u-s "$dir/dynamic"
	if [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ]; then
		expect 125 "vm.unprivileged_userfaultfd=1" as_nobody "$larder" run true
		checks=$((checks + 1))
		as_nobody "$larder" doctor >"$dir/doctor"
		[ $? = 125 ] && grep -q '^FAIL  *userfaultfd' "$dir/doctor" || { echo "FAILED: doctor as nobody" >&2; failures=$((failures + 1)); }
	fi
	chmod 755 "$disk"
	nobody_with_userfaultfd=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+sys_ptrace --ambient-caps=+sys_ptrace)
	if "${nobody_with_userfaultfd[@]}" "$larder" run true 2>/dev/null; then
		expect 125 "'$disk': it cannot be written to" "${nobody_with_userfaultfd[@]}" "$larder" run --swap-dir "$disk" true
	else
		echo "no userfaultfd without being root: swap where nobody may write is left out"
	fi
	truncate -s 256M "$disk/image"
	if loop=$(losetup -f --show "$disk/image" 2>/dev/null); then
		restore="losetup -d $loop"
		expect 125 "'$loop': it is smaller than the swap size" "$larder" run --swap-device "$loop" --swap-size 257M true
		# a program that is executed in the place of another one has its device
		succeeds hello "$larder" run --swap-device "$loop" -- sh -c 'exec sh -c "exec echo hello"'
		fills --swap-device "$loop"
		succeeds yes many_disk_objects
		succeeds '"kind":"device","encrypted":false' "$larder" stat --json "$pid"
		expect 125 "'$loop': it is in use" "$larder" run --swap-device "$loop" true
		kill "$pid"
		succeeds hello "$larder" run --swap-device "$loop" echo hello
		$restore
		restore=:
	else
		echo "no loop device: swap on a device is left out"
	fi
	if before=$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null) && [ -w /proc/sys/kernel/io_uring_disabled ]; then
		restore="sysctl -q kernel.io_uring_disabled=$before"
		sysctl -q kernel.io_uring_disabled=2
		checks=$((checks + 1))
		"$larder" doctor >"$dir/doctor"
		[ $? = 1 ] && grep -q '^warn  *io_uring .*kernel.io_uring_disabled=0' "$dir/doctor" || { echo "FAILED: doctor without io_uring" >&2; failures=$((failures + 1)); }
		succeeds "hello" "$larder" run --limit 64M echo hello
		expect 125 "kernel.io_uring_disabled=0" "$larder" run --limit 64M --swap-dir "$disk" true
		$restore
		restore=:
	fi
else
	echo "not root: the checks that take privileges away are left out"
fi
checks=$((checks + 1))
(ulimit -v 4000000 && "$larder" run true) 2>"$dir/err"
[ $? = 125 ] && grep -q "ulimit -v unlimited" "$dir/err" || { echo "FAILED: ulimit -v: $(cat "$dir/err")" >&2; failures=$((failures + 1)); }
for descriptors in 6 7 8 9 10 12 16; do
	checks=$((checks + 1))
	(ulimit -n $descriptors && exec "$larder" run --limit 64M --swap-dir "$disk" -- echo hello) >"$dir/out" 2>&1
	grep -q -e '^hello$' -e 'raise ulimit -n' "$dir/out" || { echo "FAILED: ulimit -n $descriptors: $(cat "$dir/out")" >&2; failures=$((failures + 1)); }
done
checks=$((checks + 1))
LARDER_PRELOAD_LIB=/nonexistent "$larder" run true 2>"$dir/err"
[ $? = 125 ] && grep -q "install Larder again" "$dir/err" || { echo "FAILED: missing preload object: $(cat "$dir/err")" >&2; failures=$((failures + 1)); }

echo "$checks checks, $failures failed"
[ "$failures" = 0 ]
