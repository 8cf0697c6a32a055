"""Trials that break, change or attack a running service, and check what its users notice.

python -m scripts.trials disconnects        unplug a camera 200 times
python -m scripts.trials kills              kill each kind of process 10 times while serving clients and a stream
python -m scripts.trials crowd              run 16 streams; three cameras freeze, refuse connections or send garbage
python -m scripts.trials churn              create and delete 200 streams
python -m scripts.trials node               kill a second Ray node that runs half of the streams
python -m scripts.trials resize             add a second Ray node under load, then drain and remove it
python -m scripts.trials scale              raise the load, hold it for 75 s and lower it; plot the number of Detectors
python -m scripts.trials swap               change the model 20 times without downtime, then try an invalid file
python -m scripts.trials mixed              serve two models at once for a minute
python -m scripts.trials hostile            send 20,000 hostile requests: damaged images, image bombs, malformed HTTP
python -m scripts.trials jobs               run batch jobs while processes are killed and while clients wait
python -m scripts.trials scene_health       cover, blur, move and freeze cameras; look for false alarms
python -m scripts.trials frigate            send 1,200 requests of Frigate's detector beside a batch job
python -m scripts.trials field              test real-world images, cameras, models, clients and machines
python -m scripts.trials drift              inject shifts into images in virtual time, and watch stationary traffic

Each trial prints what it measured, and exits with status 1 if it found a problem. Each but scene_health and drift
starts scripts/serve with the embedded model. The cameras are GStreamer's RTSP servers, which scripts/servers installs.
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
    """Run one trial, and exit with status 1 if it found a problem."""
    stop_on_signals()
    parser = argparse.ArgumentParser(
        prog="python -m scripts.trials", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trial", choices=runs.TRIALS)
    parser.add_argument(
        "--times",
        type=int,
        help="the number of repetitions (jobs: of each kind of kill; crowd, mixed: the duration in seconds; scale: the "
        "seconds of high load); the "
        "list above shows most defaults",
    )
    parser.add_argument("--streams", type=int, default=16, help="crowd: the number of streams (default: %(default)s)")
    parser.add_argument(
        "--seed",
        type=int,
        help="hostile, jobs: the seed of the requests or of the kills (default: random); scene_health, drift: the seed "
        "of everything that is random (default: 24)",
    )
    parser.add_argument(
        "--weights",
        nargs=2,
        type=Path,
        metavar="MODEL",
        help="swap, mixed: the two models (default: the embedded model and a copy of it with other labels)",
    )
    parser.add_argument("--picture", type=Path, help="swap, mixed: an image in which both models detect something")
    parser.add_argument(
        "--kind", metavar="TEXT", default="", help="field, jobs: run only the cases or parts whose kind contains TEXT"
    )
    parser.add_argument("--size", type=int, default=320, help="frigate: model.image_size_px (default: %(default)s)")
    parser.add_argument("--items", type=int, default=20_000, help="jobs: the number of images (default: %(default)s)")
    parser.add_argument(
        "--model", type=Path, default=Path("codes"), help="jobs, frigate: the model (default: the embedded one)"
    )
    options = parser.parse_args()
    times, run = runs.TRIALS[options.trial]
    try:
        make_folder(FOLDER)
        problems = run(options.times or times, options)
    except (StartFailed, StopFailed, NoCamera) as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    console.print("\n".join(problems) or "no problems found")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
