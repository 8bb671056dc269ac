"""Write a finished run's adapter, or the plain model it makes, into a new folder.

python scripts/export.py runs/4f1c2a9b7d3e my-adapter          a folder that plain peft loads
python scripts/export.py 4f1c2a9b7d3e my-model --merge         a plain transformers model
"""

from __future__ import annotations

from pathlib import Path

from sora.cli.console import Parser, place_of, run
from sora.publish.find_run import find_run, publish


def main() -> int:
    parser = Parser(description="Write a finished run's adapter into a new folder.")
    parser.add_argument("run", metavar="RUN", help="a run folder, or a run id")
    parser.add_argument("out", metavar="OUT", type=place_of, help="a folder that does not exist yet, or is empty")
    parser.add_argument("--merge", action="store_true", help="write a plain transformers model instead")
    parser.add_argument("--runs", type=place_of, default=Path("runs"), help="folder of the run folders (default: runs)")
    parser.add_argument(
        "--results", type=place_of, default=Path("results"), help="folder of the records (default: results)"
    )
    arguments = parser.parse_args()
    finished = find_run(arguments.run, arguments.runs, arguments.results)
    publish(finished, arguments.out, merge=arguments.merge)
    print(f"{arguments.out}: {'model' if arguments.merge else 'adapter'} of run {finished.record['run_id']}")
    return 0


if __name__ == "__main__":
    run(main)
