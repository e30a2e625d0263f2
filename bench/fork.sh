#!/bin/sh
# What fork costs a process of which Larder manages 1 GiB and has taken out about half.
#
# bench_fork runs in pairs: with jemalloc alone, and under `larder run --limit 700M`. The order within a pair alternates. The figures are ms
# from before fork() to when the child is reaped: a child that ends at once, and one that executes /bin/true. The medians of all pairs are
# printed, and the median ratio against the target.
#
# Usage: bench/fork.sh [--pairs N] [BUILD_DIRECTORY]        (defaults: 7, build/release)
# Exit code: 0 measured (the target met or not), 2 usage or environment.
set -eu

target=2.0
pairs=7
build=$(dirname "$0")/../build/release

fail() {
	echo "fork.sh: $*" >&2
	exit 2
}

while [ $# -gt 0 ]; do
	case $1 in
	--pairs)
		[ $# -ge 2 ] || fail "--pairs needs a number"
		pairs=$2
		shift 2
		;;
	-h | --help)
		sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'
		exit 0
		;;
	-*) fail "there is no option $1; try --help" ;;
	*)
		build=$1
		shift
		;;
	esac
done
case $pairs in '' | *[!0-9]* | 0*) fail "--pairs must be a positive number, not '$pairs'" ;; esac

larder=$build/bin/larder
job=$build/bin/bench_fork
[ -x "$larder" ] || fail "$larder is missing; build first, or name the build directory"
[ -x "$job" ] || fail "$job is missing; build first"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# measure NAME PREFIX...: append the whole time of one run to $work/NAME-exit and $work/NAME-exec
measure() {
	name=$1
	shift
	"$@" "$job" >"$work/out" || fail "failed: $* $job"
	cut -d' ' -f1 "$work/out" >>"$work/$name-exit"
	"$@" "$job" --program /bin/true >"$work/out" || fail "failed: $* $job --program /bin/true"
	cut -d' ' -f1 "$work/out" >>"$work/$name-exec"
}

plain() {
	measure plain env LD_PRELOAD=libjemalloc.so.2
}

under_larder() {
	measure larder "$larder" run --limit 700M --
}

median() {
	sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

i=0
while [ "$i" -lt "$pairs" ]; do
	if [ $((i % 2)) = 0 ]; then
		plain
		under_larder
	else
		under_larder
		plain
	fi
	i=$((i + 1))
done

printf '%-12s%12s%12s%10s\n' '' 'plain ms' 'larder ms' 'ratio'
for what in exit exec; do
	ratio=$(paste "$work/larder-$what" "$work/plain-$what" | awk '{ print $1 / $2 }' | median)
	printf 'fork + %-5s%12.1f%12.1f%10.2f   (target: at most %s, %s)\n' "$what" "$(median <"$work/plain-$what")" \
		"$(median <"$work/larder-$what")" "$ratio" "$target" \
		"$(awk "BEGIN { print ($ratio <= $target) ? \"met\" : \"missed\" }")"
done
