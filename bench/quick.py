"""A short interleaved `life` run beside the floors, as a table: a first look, not a measurement to quote.

Compiles the C programs into a temporary folder. Counts and repetitions can be given: quick.py [COUNTS [REPS]].
"""
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def main(counts="1,8,64", reps="3"):
    drivers = ["raw-c", "raw-py-gang", "rankd"]
    if shutil.which("torchrun") or os.environ.get("BENCH_TORCHRUN"):
        drivers.append("torchrun")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        sys.exit("no C compiler found: apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("worker", "rawspawn"):
            source, program = os.path.join(HERE, name + ".c"), os.path.join(folder, name)
            subprocess.run([compiler, "-O2", "-static", "-o", program, source], check=True)
        out = os.path.join(folder, "life.jsonl")
        subprocess.run([sys.executable, os.path.join(HERE, "bench.py"), "life", "--drivers", ",".join(drivers),
                        "--counts", counts, "--reps", reps, "--bin", folder, "--out", out],
                       check=True, env={**os.environ, "BENCH_TMP": folder})
        subprocess.run([sys.executable, os.path.join(HERE, "summarize.py"), out], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
