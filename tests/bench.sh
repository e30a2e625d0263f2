#!/bin/bash
# larder bench: every benchmark runs, small, without a peer, and its JSON document says what it should; bad input is refused with one sentence and
# exit code 2; the report holds what the documents hold. With root, a peer: everything is as before, also after an interrupt.
#   bench.sh LARDER
set -u
larder=$(realpath "$1")
dir=$(mktemp -d)
failures=0
checks=0
trap 'rm -rf "$dir"' EXIT

complain() {
	echo "FAILED: $*" >&2
	failures=$((failures + 1))
}

# refuses TEXT ARGUMENT...: exit code 2, nothing on standard output, TEXT on standard error
refuses() {
	local text=$1 out got
	shift
	checks=$((checks + 1))
	out=$("$larder" bench "$@" 2>&1 >"$dir/out")
	got=$?
	[ "$got" = 2 ] && [ ! -s "$dir/out" ] && [[ "$out" == *"$text"* ]] ||
		complain "bench $*: exit code $got, said '$out', expected 2 and '$text'"
}

# measures NAME CONTENDERS BENCHMARK [ARGUMENT...]: exit code 0; the document names the contenders, has figures of each, and none has failed
measures() {
	local name=$1 contenders=$2 contender
	shift 2
	checks=$((checks + 1))
	if ! "$larder" bench "$1" --json "${@:2}" >"$dir/documents/$name.json" 2>"$dir/err"; then
		complain "bench $*: $(cat "$dir/err")"
		return
	fi
	python3 - "$dir/documents/$name.json" "$1" $contenders <<'PYTHON' || complain "bench $*: the document is not as it should be"
import json, sys
document = json.load(open(sys.argv[1]))
assert document["larder_bench"] == 1 and document["benchmark"] == sys.argv[2], document["benchmark"]
assert document["machine"]["kernel"] and document["machine"]["cpus"] > 0
assert [c["name"] for c in document["contenders"]] == sys.argv[3:], document["contenders"]
assert document["cases"]
for case in document["cases"]:
    assert case["label"] and case["results"], case
    for result in case["results"]:
        assert result["failed"] == 0 and result["figures"], result
        for name, figure in result["figures"].items():
            assert len(figure["runs"]) == document["options"]["runs"], (name, figure)
            assert figure["min"] <= figure["median"] <= figure["max"], (name, figure)
        latencies = [us for _, us in result.get("latency_us", [])]
        assert latencies == sorted(latencies), latencies
PYTHON
}

# says TEXT FILE
says() {
	checks=$((checks + 1))
	grep -q -- "$1" "$2" || complain "$2 lacks '$1'"
}

mkdir "$dir/documents" "$dir/empty"

# ---- what is refused ----
refuses "there is no benchmark 'bad'" bad
refuses "Usage:"
refuses "there is no peer 'ram'" fault --peer ram
refuses "--pages must be a number from 1024" fault --pages 12
refuses "--pages must be a number from 1024" fault --pages 2048,x
refuses "--threads must be a number from 1 to 64, not '0'" fault --threads 0
refuses "there is no pattern 'zigzag'" fault --pattern random,zigzag
refuses "there are no contents 'nothing'" fault --data nothing
refuses "cannot read the contents './nothing'" fault --data ./nothing
refuses "must be a file of at least 4096 bytes" fault --data "$dir"
for limit in 5 8M 0% 101% 1.5G -1M; do
	refuses "--limit: '$limit' is neither a size" fault --limit "$limit"
done
refuses "is less than 16 MiB" fault --pages 4096 --limit 50%
refuses "nobody called 'me'" fault --contenders me
refuses "LZ4 needs twice the memory of --pages, 524288 MiB" fault --pages 4096,67108864 --contenders LZ4
refuses "--runs must be a number" reclaim --runs 0
refuses "unrecognized option '--threads'" reclaim --threads 2
refuses "unexpected argument 'x'" reclaim x
refuses "--dir: '/nonexistent' cannot be written to" fault --dir /nonexistent
refuses "leave out --peer zram" volatile --peer zram
refuses "one value of --pages" alloc --pages 1024,2048
refuses "app knows the patterns zipf and random" app --pattern stride
refuses "some of the arguments are no apps" app redis memcached
refuses "cannot read the directory" report /nonexistent
refuses "holds no .json files" report "$dir/empty"
echo '{}' >"$dir/empty/x.json"
refuses "is not what larder bench --json prints" report "$dir/empty"
if [ "$(id -u)" = 0 ]; then
	checks=$((checks + 1))
	out=$(setpriv --reuid=65534 --regid=65534 --clear-groups "$larder" bench fault --peer zram 2>&1)
	[ $? = 2 ] && [[ "$out" == *"needs root"* ]] || complain "without root, --peer zram: $out"
fi

# ---- every benchmark, without a peer ----
measures fault "handlers inline LZ4 memcpy RAM" fault --pages 2048 --runs 2 --pattern random,sequential,stride,zipf --threads 1,2
measures limited "handlers inline" fault --pages 8192 --runs 1 --limit 90%,60% --pattern zipf --writes 30 --data json --contenders handlers,inline
for data in text binary zero "$larder"; do
	measures "reclaim-$(basename "$data")" "handlers inline LZ4 memcpy" reclaim --pages 1024 --runs 1 --data "$data"
done
measures idle "handlers" reclaim --pages 1024 --runs 1 --idle 1 --contenders handlers
measures volatile "madvise larder registered" volatile --pages 1024 --runs 1 --threads 1
measures alloc "plain larder" alloc --pages 1024 --runs 1 --threads 2
measures fork "plain larder" fork --pages 8192 --runs 1 --repeats 2 --limit 60%
measures app "plain larder" app sqlite chase stream --pages 8192 --runs 1 --seconds 1 --limit 60%
measures redis "plain larder" app redis redis-pipelined --pages 8192 --runs 1 --seconds 1 --limit 60% --pattern zipf,random
measures command "plain larder" app --runs 1 --limit 64M --contenders plain,larder -- sort --parallel=1 "$0"

# ---- what fails is said ----
checks=$((checks + 1))
"$larder" bench reclaim --data random --pages 1024 --runs 1 --contenders handlers >"$dir/out" 2>&1
[ $? = 1 ] && grep -q "nothing to compare" "$dir/out" && grep -q "is left out" "$dir/out" || complain "random contents: $(cat "$dir/out")"
checks=$((checks + 1))
"$larder" bench app --runs 1 --limit none --contenders plain -- sh -c 'exit 3' >"$dir/out" 2>&1
[ $? = 1 ] && grep -q "plain failed (exit code 3)" "$dir/out" || complain "a command that fails: $(cat "$dir/out")"
checks=$((checks + 1))
"$larder" bench app --runs 2 --limit none --contenders plain -- date +%N >"$dir/out" 2>&1
[ $? = 1 ] && grep -q "not the same as in the first run" "$dir/out" || complain "a command that prints other things: $(cat "$dir/out")"

# ---- the report ----
if command -v gnuplot >/dev/null; then
	checks=$((checks + 1))
	cp "$dir/documents/fork.json" "$dir/documents/fork-again.json" # cases of one kind, none of which has a speed
	"$larder" bench report "$dir/documents" >"$dir/out" 2>&1 || complain "bench report: $(cat "$dir/out")"
	page=$dir/documents/report.html
	says "<svg" "$page"
	says "Speed against the memory limit" "$page"
	says "memory limit, per cent of the memory" "$page"
	says ">threads<" "$page"
	says "latency, us" "$page"
	says "registered" "$page"
	says "redis-pipelined, random" "$page"
	checks=$((checks + 1))
	! grep -qE "(src|href)=['\"](http|/)" "$page" || complain "$page needs other files"
fi

# ---- with a peer, everything is as it was ----
state() {
	cat /proc/swaps /sys/module/zswap/parameters/* /sys/block/zram*/disksize /sys/block/zram*/comp_algorithm 2>/dev/null
	ls /sys/block /sys/fs/cgroup /sys/fs/cgroup/memory /var/tmp 2>/dev/null
}

# PEERS=yes: the machine may be changed for a moment
if [ "${PEERS:-}" = yes ] && [ "$(id -u)" = 0 ]; then
	state >"$dir/before"
	for peer in zram zswap swapfile; do
		measures "peer-$peer" "$peer handlers" fault --peer $peer --pages 8192 --runs 1 --limit 60% --contenders $peer,handlers
		measures "peer-reclaim-$peer" "$peer handlers" reclaim --peer $peer --pages 4096 --runs 1 --contenders $peer,handlers
		checks=$((checks + 1))
		"$larder" bench fault --peer $peer --pages 65536 --runs 50 --contenders $peer >"$dir/out" 2>&1 &
		pid=$!
		for ((i = 0; i < 100; i++)); do
			sleep 0.1
			grep -qE 'zram|swap' /proc/swaps && break
		done
		kill -INT $pid
		wait $pid
		state | diff "$dir/before" - || complain "after an interrupt, --peer $peer has left something behind"
		# All of its processes at once, as timeout does it.
		checks=$((checks + 1))
		timeout -s KILL 3 "$larder" bench fault --peer $peer --pages 65536 --runs 50 --contenders $peer >"$dir/out" 2>&1
		for ((i = 0; i < 50; i++)); do
			state | cmp -s "$dir/before" - && break
			sleep 0.1
		done
		state | diff "$dir/before" - || complain "after a kill, --peer $peer has left something behind"
	done
	measures peer-all "swapfile handlers inline fio LZ4 memcpy RAM" fault --peer swapfile --pages 4096 --runs 1
	measures peer-app "plain zram larder" app chase --peer zram --pages 8192 --runs 1 --seconds 1 --limit 60%
	state | diff "$dir/before" - || complain "something is left behind"
fi

echo "$checks checks, $failures failures"
[ "$failures" = 0 ]
