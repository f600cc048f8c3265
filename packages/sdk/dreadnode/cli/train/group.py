"""`dn train`: which commands there are, and where each is found."""

from __future__ import annotations

from cyclopts import App, Group

CHOOSE = Group("Choose", sort_key=1)
SUBMIT = Group("Submit", sort_key=2)
FOLLOW = Group("Follow", sort_key=3)
KEEP = Group("Keep", sort_key=4)

app = App(
    name="train",
    help="Choose a base model, submit training jobs and follow them.",
    version_flags=[],
)
for _name, _target, _group in (
    ("catalog", "catalog:catalog", CHOOSE),
    ("check", "check:app", CHOOSE),
    ("estimate", "estimate:app", CHOOSE),
    ("sft", "sft:sft", SUBMIT),
    ("rl", "rl:rl", SUBMIT),
    ("eval", "eval:evaluate", SUBMIT),
    ("init", "job_file:init", SUBMIT),
    ("submit", "job_file:submit", SUBMIT),
    ("clone", "job_file:clone", SUBMIT),
    ("cancel", "jobs:cancel", SUBMIT),
    ("retry", "jobs:retry", SUBMIT),
    ("list", "jobs:list_jobs", FOLLOW),
    ("get", "jobs:get", FOLLOW),
    ("wait", "jobs:wait", FOLLOW),
    ("watch", "watch:watch", FOLLOW),
    ("plot", "plot:plot", FOLLOW),
    ("logs", "jobs:logs", FOLLOW),
    ("rollouts", "rollouts:rollouts", FOLLOW),
    ("cost", "cost:cost", FOLLOW),
    ("result", "eval:result", FOLLOW),
    ("artifacts", "jobs:artifacts", KEEP),
    ("checkpoints", "checkpoints:checkpoints", KEEP),
    ("download", "download:download", KEEP),
    ("export", "export:export", KEEP),
    ("push-hub", "push_hub:push_hub", KEEP),
    ("chat", "chat:chat", KEEP),
    ("delete", "delete:delete", KEEP),
):
    app.command(f"dreadnode.cli.train.{_target}", name=_name, group=_group)
