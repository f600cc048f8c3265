"""How a job can end badly, sorted by whose fault it is.

RuntimeFault
├── JobFailed     the job's own fault: said once, never tried again (exit 1)
└── TryAgain      somebody else's: the engine or the API was away too long (exit 75)
    └── NoLongerOurs   another attempt holds the job, or it has ended: write nothing more
"""


class RuntimeFault(Exception):
    """Anything that ends a job before its work is done; the text is one sentence for a person."""


class JobFailed(RuntimeFault):
    """The job cannot succeed as it was asked for.

    Args:
        message: What is wrong, where, and what to do about it.
        code: One word for programs: `data`, `config`, `model`, `diverged`, `engine_refused`.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class TryAgain(RuntimeFault):
    """Something that the job needs was away for too long; another attempt may find it back."""


class NoLongerOurs(TryAgain):
    """The API no longer takes this attempt's word: the job ended, or another attempt has it."""


def plain(error: BaseException | str) -> str:
    """Return the first line of ERROR, fit for a message.

    Square brackets become round: clients in the field read them as markup.
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].translate(str.maketrans("[]", "()")).rstrip(".")[:300]
