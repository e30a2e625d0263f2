#!/bin/bash
# The command's answers to bad input: one line on standard error that names the cause, and the documented exit status.
#   cli.sh LARDER CC
set -u
larder=$1
cc=$2
dir=$(mktemp -d)
failures=0
checks=0
restore=:
trap '$restore; rm -rf "$dir"' EXIT

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
	if before=$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null) && [ -w /proc/sys/kernel/io_uring_disabled ]; then
		restore="sysctl -q kernel.io_uring_disabled=$before"
		sysctl -q kernel.io_uring_disabled=2
		checks=$((checks + 1))
		"$larder" doctor >"$dir/doctor"
		[ $? = 1 ] && grep -q '^warn  *io_uring .*kernel.io_uring_disabled=0' "$dir/doctor" || { echo "FAILED: doctor without io_uring" >&2; failures=$((failures + 1)); }
		succeeds "hello" "$larder" run --limit 64M echo hello
		$restore
	fi
else
	echo "not root: the checks that take privileges away are left out"
fi
checks=$((checks + 1))
(ulimit -v 4000000 && "$larder" run true) 2>"$dir/err"
[ $? = 125 ] && grep -q "ulimit -v unlimited" "$dir/err" || { echo "FAILED: ulimit -v: $(cat "$dir/err")" >&2; failures=$((failures + 1)); }
checks=$((checks + 1))
LARDER_PRELOAD_LIB=/nonexistent "$larder" run true 2>"$dir/err"
[ $? = 125 ] && grep -q "install Larder again" "$dir/err" || { echo "FAILED: missing preload object: $(cat "$dir/err")" >&2; failures=$((failures + 1)); }

echo "$checks checks, $failures failed"
[ "$failures" = 0 ]
