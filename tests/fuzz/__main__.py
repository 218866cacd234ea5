"""Fuzzing at length: ``python tests/fuzz --inputs 200000 --minutes 60``. Started again, it goes on where it was."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

from example import TARGETS, shares, target
from running import Place, watched, work
from trying import kept, tried


def main(argv: list[str] | None = None) -> int:
    """Try inputs, or those of findings again.

    :param argv: arguments; the process's by default.
    :return: exit code: 0 without a finding, 1 with one.
    """
    parser = argparse.ArgumentParser("python tests/fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20000, help="of all targets together (default: 20000)")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which none is begun (default: 60)")
    parser.add_argument("--only", default=",".join(TARGETS), metavar="A,B", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="targets at once (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="figures and findings (default: runs/fuzz)")
    parser.add_argument("--replay", type=Path, metavar="PATH", help="a finding's file, or a folder of them, once more")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    os.environ["FUZZ_WORLD"] = str(options.out.absolute() / "world")
    if options.work:
        name, inputs, until = options.work
        work(Place(options.out, name, options.seed), int(inputs), float(until))
        return 0
    if options.replay:
        return replay(options.replay)
    names = options.only.split(",")
    if any(getattr(target(name), "WORLD", False) for name in names):
        import world

        world.whole()  # before several processes want it
    until = time.time() + 60 * options.minutes
    asked = shares(names, options.inputs)
    print(f"{'target':16}{'inputs':>9}{'crashes':>9}{'hangs':>7}{'MiB':>7}{'before':>8}{'seconds':>9}")
    bad = 0
    with ThreadPoolExecutor(options.processes) as pool:
        places = [Place(options.out, name, options.seed) for name in names]
        for place, tally in zip(
            places, pool.map(lambda place: watched(place, asked[place.name], until), places), strict=True
        ):
            peak, before = tally.peak
            figures = f"{tally.inputs:9}{tally.crashes:9}{tally.hangs:7}{peak:7.0f}{before:8.0f}{tally.seconds:9.0f}"
            print(f"{place.name:16}{figures}", flush=True)
            for cause, number in sorted(tally.causes.items(), key=lambda item: -item[1]):
                print(f"  {number:6} {cause}")
            bad += tally.crashes + tally.hangs
    return int(bad > 0)


def replay(path: Path) -> int:
    """Try inputs of findings again.

    :param path: a file that a finding was kept in, or a folder of them.
    :return: exit code: 0 if nothing is found any more, 1 otherwise.
    """
    import tempfile

    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.suffix != ".told")
    bad = 0
    for file in files:
        with tempfile.TemporaryDirectory() as folder:
            found = tried(target(file.parent.name), kept(file), Path(folder, "input"))
        bad += found is not None
        print(f"{file}: {f'{found.kind}: {found.cause}' if found else 'nothing'}")
        if found and len(files) == 1:
            print(found.told)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
