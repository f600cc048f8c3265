"""The request that would create a job once more."""

from pydantic import TypeAdapter

from dreadnode_api.models.jobs import Job
from dreadnode_api.training.schemas import JobRequest

_REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)


def copy_request(job: Job) -> JobRequest:
    """Return the request of a job with the same settings, those that were defaults included.

    Raises:
        pydantic.ValidationError: the server does not accept a setting of the job any more.
    """
    config = {name: value for name, value in job.config.items() if value is not None}
    body = {
        "trainer_type": job.trainer_type,
        "backend": job.backend,
        "model": job.model,
        "rehearse": job.rehearsal,
        "rehearse_steps": job.rehearse_steps,
        "tags": job.tags,
        "name": job.name,
        "project_ref": job.project_ref,
        "run_ref": job.run_ref,
    }
    if job.capability:
        body["capability_ref"] = {name: job.capability[name] for name in ("name", "version")}
        # It is the capability's.
        config.pop("system_prompt", None)
    if job.trainer_type == "eval":
        # Its models are in the config.
        del body["model"], body["rehearse"]
    given = {name: value for name, value in body.items() if value is not None}
    return _REQUEST.validate_python({**given, "config": config})
