"""``python -m supervisor.config PATH [NODE_ID RUN_ID WORKERS]``: the plan of that file as one JSON object on stdout.

``{"plan": {...}}`` and exit 0, or ``{"mistakes": [[file, line, key, what], ...]}`` and exit 78. The daemon reads its
configuration through this process (``supervisor.config_reader``) and so does not carry pydantic for its life.
WORKERS: an object with the number of workers that some groups are to have.
"""

from __future__ import annotations

import json
import os
import sys

from supervisor import config, errors, plan_json


def main(path: str, node_id: str = "", run_id: str = "", workers: str = "{}") -> int:
    answer: dict[str, object]
    code = errors.OK
    try:
        answer = {"plan": plan_json.plan_to_json(config.load(path, os.environ, node_id, run_id, json.loads(workers)))}
    except errors.ConfigError as error:
        answer = {"mistakes": [[one.file, one.line, one.key, one.what] for one in error.mistakes]}
        code = error.exit_code
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
