"""Errors that end a job, sorted by who must act.

RuntimeFault
├── JobFailed     The job cannot succeed: reported once, never retried (exit code 1).
└── TryAgain      The engine or the API failed: another attempt may succeed (exit code 75).
    └── AttemptRejected   Another attempt holds the job, or it has ended: report nothing more.
"""


class RuntimeFault(Exception):
    """An error that ends this attempt; its text is one sentence for the user."""


class JobFailed(RuntimeFault):
    """The job cannot succeed with its data, its settings or its code.

    Args:
        message: What is wrong, where, and what to do.
        code: One word for programs: `config`, `data`, `diverged`, `engine_refused`, `environment`,
            `model`, `reward` or `tokenizer`.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class TryAgain(RuntimeFault):
    """An infrastructure failure: the engine or the API did not work for too long."""


class AttemptRejected(TryAgain):
    """The API rejected this attempt's token: the job ended, or another attempt has it."""


def plain(error: BaseException | str) -> str:
    """Return the first line of ERROR for use in a message.

    Square brackets become round ones: old clients interpret them as terminal markup.
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].translate(str.maketrans("[]", "()")).rstrip(".")[:300]
