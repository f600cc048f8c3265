"""What takes the space of a data directory, by kind and by job and dataset."""

from typing import Any

from dreadnode_api.maintenance.disk import disk_usage


async def test_each_file_counts_for_its_kind_and_for_the_job_or_dataset_that_has_it(
    api: Any,
) -> None:
    await api.push()
    await api.push(version="1.0.1")
    await api.push("other", body=b'{"prompt": "a", "response": "b"}\n')
    await api("DELETE", "/org/acme/datasets/other/1.0.0")
    await api.job()
    job, key = await api.start()
    file = f"{api.jobs}/{job['id']}/files/adapter/adapter_config.json"
    assert (await api("PUT", file, key=key, content=b"x" * 50)).status_code == 201
    saved = {"latest_checkpoint": "tinker://run-1/weights/a"}
    event = {"event_type": "checkpoint_saved", "data": {"step": 1}, "artifacts": saved}
    await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=event)
    for name, size in (("checkpoints/run-1/weights/a/w", 700), ("jobs/x/log", 5), ("odd", 3)):
        path = api.settings.data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)

    async with api.database.reading() as session:
        found = await disk_usage(session, api.settings)

    sizes = {each.kind: each.bytes for each in found.kinds}
    assert sizes == {
        "checkpoints": 700, "datasets": 376, "files of jobs": 50, "unused blobs": 33,
        "sandbox folders": 5, "other": 3,
    }  # fmt: skip
    assert found.bytes == sum(sizes.values())
    assert [(each.kind, each.name, each.bytes) for each in found.holders] == [
        ("job", job["id"], 750), ("dataset", "rows@1.0.0", 376), ("dataset", "rows@1.0.1", 376),
    ]  # fmt: skip
    assert found.holders[0].how_to_free == f"dn train delete {job['id']}"
