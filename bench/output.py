"""The output path beside a bare Python loop, supervisord and torchrun, in one interleaved run, and the bars it has to reach.

  output.py [--reps 5] [--lines 1000000] [--crowd 1000] [--out FILE]

Compiles worker.c into a temporary folder and runs the suites logs, paced and silent of bench.py: rankd, raw-py-gang, and
those of supervisord and torchrun that are on PATH or named by $BENCH_SUPERVISORD, $BENCH_TORCHRUN. Results are appended to
FILE as JSON lines; the tables are medians. Needs psutil and a C compiler. Exits with 1 when a bar is not reached.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", default="5")
    parser.add_argument("--lines", default="1000000", help="lines of 100 bytes from each worker")
    parser.add_argument("--crowd", default="1000", help="workers of the suites paced and silent")
    parser.add_argument("--seconds", default="10")
    parser.add_argument("--timeout", default="300")
    parser.add_argument("--out", default=os.path.join(HERE, "..", ".bench", "output.jsonl"))
    args = parser.parse_args()
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        sys.exit("no C compiler found: apt-get install gcc libc6-dev")
    there = [name for name in ("supervisord", "torchrun")
             if os.environ.get("BENCH_" + name.upper()) or shutil.which(name)]
    for name in {"supervisord", "torchrun"} - set(there):
        print(f"{name} is left out: not on PATH, set BENCH_{name.upper()}")
    began_at = os.path.getsize(args.out) if os.path.exists(args.out) else 0
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "worker")
        subprocess.run([compiler, "-O2", "-static", "-o", program, os.path.join(HERE, "worker.c")], check=True)

        def run(suite, drivers, counts, *more):
            subprocess.run([sys.executable, os.path.join(HERE, "bench.py"), suite, "--drivers", ",".join(drivers),
                            "--counts", counts, "--reps", args.reps, "--timeout", args.timeout, "--bin", folder,
                            "--out", args.out, *more], check=True, env={"BENCH_TMP": folder, **os.environ})

        run("logs", ["raw-py-gang", "rankd", *there], "1,8", "--lines", args.lines, "--mode", "lines,lineby")
        # torchrun has a thread a stream and polls: a thousand workers of it are another benchmark
        crowd = ["raw-py-gang", "rankd", *(name for name in there if name != "torchrun")]
        run("paced", crowd, args.crowd, "--seconds", args.seconds)
        run("silent", crowd, f"1,{args.crowd}")
    subprocess.run([sys.executable, os.path.join(HERE, "summarize.py"), args.out], check=True)
    with open(args.out) as file:
        file.seek(began_at)
        rows = [json.loads(line) for line in file]
    return print_bars(rows, int(args.crowd))


def print_bars(rows, crowd):
    def median(name, suite, driver, how, count, mode=None):
        values = [row[name] for row in rows if name in row and "error" not in row and row["count"] == count
                  and (row["suite"], row["driver"], row["how"], row.get("mode")) == (suite, driver, how, mode)]
        return statistics.median(values) if values else None

    bars = []       # what, is, bar, whether more is better, what it could be at best
    for count in (1, 8):
        for mode in ("lines", "lineby"):
            where = f"{count} worker{'s' if count > 1 else ''}, {mode}"
            tee = median("cpu_s_per_gb", "logs", "rankd", "tee", count, mode)
            floor = median("cpu_s_per_gb", "logs", "raw-py-gang", "file", count, mode)
            bars.append((f"tee, {where}: CPU a GB / raw-py's", ratio(tee, floor), 1.8, False, None))
            speed = median("lines_per_s", "logs", "rankd", "tee", count, mode)
            peer = median("lines_per_s", "logs", "torchrun", "tee", count, mode)
            # The workers alone, into a file: nobody's tee can be faster than they write.
            alone = median("lines_per_s", "logs", "rankd", "file", count, mode)
            bars.append((f"tee, {where}: lines a second / torchrun --tee's", ratio(speed, peer), 12, True,
                         ratio(alone, peer)))
            # A millisecond: what a loop that turns for another reason meanwhile, a probe or a timer, may cost.
            used = median("cpu_s", "logs", "rankd", "file", count, mode)
            bars.append((f"redirect, {where}: ms of the daemon's CPU", None if used is None else used * 1e3, 1, False, 0))
    bars.append((f"{crowd} workers, a line a second, tee: percent of a core",
                 median("percent_of_a_core", "paced", "rankd", "tee", crowd), 10, False, None))
    # Of the process's own pages: a share of those that it has in common depends on who else runs Python at the moment.
    many, one = (median("uss_mib", "silent", "rankd", "tee", count) for count in (crowd, 1))
    each = None if many is None or one is None else (many - one) * 1024 / (crowd - 1)
    bars.append((f"{crowd} silent workers, stdout and stderr piped: KiB each", each, 20, False, None))
    print("\n### bars\n\n| what | is | must be | at best | |\n|---|---|---|---|---|")
    missed = 0
    for what, value, bar, more, best in bars:
        reached = value is not None and (value >= bar if more else value <= bar)
        missed += not reached
        print(f"| {what} | {number(value)} | {'>=' if more else '<='} {bar} | {number(best)} | "
              f"{'' if reached else 'not measured' if value is None else 'MISSED'} |")
    return 1 if missed else 0


def number(value):
    return "-" if value is None else format(value, ".3g")


def ratio(one, other):
    return None if one is None or not other else one / other


if __name__ == "__main__":
    sys.exit(main())
