"""Trials: what it does when something breaks or changes, or somebody means to break it.

python -m scripts.trials disconnects        a camera's cable is pulled out, 200 times
python -m scripts.trials kills              SIGKILL for every kind of process under clients and a stream, 10 times each
python -m scripts.trials crowd              16 streams, one frozen, one refusing connections, one sending garbage
python -m scripts.trials churn              200 streams come and go
python -m scripts.trials node               a second Ray node with half of the streams dies
python -m scripts.trials resize             a second Ray node joins under load, takes part of it, is drained, and ends
python -m scripts.trials scale              a load that steps up and down, held for 75 s: Detectors follow it; a plot
python -m scripts.trials swap               the model is changed 20 times, then to a file that is none
python -m scripts.trials mixed              two models at once, for a minute
python -m scripts.trials hostile            20,000 hostile requests: damaged pictures, bombs, HTTP that is none
python -m scripts.trials field              what people's pictures, cameras, models, clients and machines really are

Each starts scripts/serve with the embedded model, says what it saw, and exits 1 when something was wrong. The cameras
are GStreamer's: see scripts/servers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.launch import StartFailed, StopFailed, make_folder, stop_on_signals
from scripts.trials import runs
from scripts.trials.camera import NoCamera
from scripts.trials.stage import FOLDER, console


def main() -> None:
    """Run one trial; exits 1 when something was wrong."""
    stop_on_signals()
    parser = argparse.ArgumentParser(
        prog="python -m scripts.trials", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trial", choices=runs.TRIALS)
    parser.add_argument(
        "--times", type=int, help="how often (crowd, scale, mixed: for how many seconds); the defaults are above"
    )
    parser.add_argument("--streams", type=int, default=16, help="of crowd (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of hostile: the same one sends the same (default: another each time)")
    parser.add_argument(
        "--weights", nargs=2, type=Path, metavar="MODEL", help="of swap, mixed (default: the embedded one, twice)"
    )
    parser.add_argument("--picture", type=Path, help="of swap, mixed: in which both models find something")
    parser.add_argument("--kind", metavar="TEXT", help="of field: only the kinds whose name contains this")
    options = parser.parse_args()
    times, run = runs.TRIALS[options.trial]
    try:
        make_folder(FOLDER)
        problems = run(options.times or times, options)
    except (StartFailed, StopFailed, NoCamera) as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    console.print("\n".join(problems) or "nothing was wrong")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
