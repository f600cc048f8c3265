"""The refusal of a job by its check."""


class Refused(Exception):
    """The job cannot be trained.

    Attributes:
        loc: The place in the request.
    """

    def __init__(self, loc: list[str], sentence: str) -> None:
        super().__init__(sentence)
        self.loc = loc
