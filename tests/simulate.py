"""Run the simulator: `python tests/simulate.py --seeds 20000`, or replay one failing seed with `--seed N`."""

import argparse
import gc
import sys
import time

from sim.history import history
from sim.run import Run, described, shrink


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one history, shortened, with everything that happened")
    parser.add_argument("--whole", action="store_true", help="with --seed: do not shorten it")
    parser.add_argument("--seeds", type=int, default=20_000, help="how many histories (default 20000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--hours", type=float, help="instead of --seeds: run for so long")
    parser.add_argument("--keep-going", type=int, default=1, metavar="N", help="stop after N failing seeds")
    options = parser.parse_args()
    if options.seed is not None:
        found = history(options.seed)
        failed = bool(Run(found).run())
        print(described(found if options.whole or not failed else shrink(found)))
        return int(failed)
    return run(options)


def run(options: argparse.Namespace) -> int:
    gc.freeze()
    gc.disable()  # a history leaves cycles; they are collected every now and then below
    began, told, failed, count = time.monotonic(), time.monotonic(), 0, 0
    seed = options.first
    while time.monotonic() - began < options.hours * 3600 if options.hours else count < options.seeds:
        violations = Run(history(seed)).run()
        count += 1
        if violations:
            failed += 1
            print(f"seed {seed}: {violations[0]}\n  replay: python tests/simulate.py --seed {seed}", flush=True)
            if failed >= options.keep_going:
                break
        seed += 1
        if count % 200 == 0:
            gc.collect()
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{count} histories, {count / (told - began):.0f} a second, {failed} failed", flush=True)
    took = time.process_time()
    print(f"{count} histories in {took:.1f} s of processor time, {count / took:.0f} a second, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
