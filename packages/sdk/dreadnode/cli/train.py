"""`dn train`: which commands there are, and where each is found."""

from __future__ import annotations

from cyclopts import App, Group

CHOOSE = Group("Choose", sort_key=1)
SUBMIT = Group("Submit", sort_key=2)
FOLLOW = Group("Follow", sort_key=3)
KEEP = Group("Keep", sort_key=4)

app = App(name="train", help="Choose a base model, submit training jobs and follow them.")
for _name, _target, _group, _help in (
    ("catalog", "catalog:catalog", CHOOSE, "Show the base models, their prices and their limits."),
    ("sft", "submit:sft", SUBMIT, "Submit a supervised fine-tuning job."),
    ("cancel", "jobs:cancel", SUBMIT, "Stop a job; a running one saves a checkpoint first."),
    ("retry", "jobs:retry", SUBMIT, "Repeat a failed or cancelled job from its last checkpoint."),
    ("list", "jobs:list_jobs", FOLLOW, "List jobs, newest first."),
    ("get", "jobs:get", FOLLOW, "Show one job."),
    ("wait", "jobs:wait", FOLLOW, "Wait until a job has ended, showing its progress."),
    ("logs", "jobs:logs", FOLLOW, "Show a job's log."),
    ("artifacts", "jobs:artifacts", KEEP, "Show what a job has made."),
    ("download", "jobs:download", KEEP, "Fetch a job's adapter into a folder."),
):
    app.command(f"dreadnode.cli.{_target}", name=_name, group=_group, help=_help)
