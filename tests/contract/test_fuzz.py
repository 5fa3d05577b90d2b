"""A short run of the calls that are made up from the API document."""

import pytest

from tests.contract.fuzz import UNLIMITED, fuzz
from tests.contract.stage import opened_scene


@pytest.mark.asyncio
@pytest.mark.timeout(240)
async def test_made_up_calls_get_only_answers_that_the_document_promises(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with opened_scene(tmp_path_factory.mktemp("fuzz"), **UNLIMITED) as scene:
        findings = await fuzz(scene, examples=3, seed=7, seconds=60)
    assert findings.wrong == {}
    assert findings.operations == {
        f"{method} {template}" for method, template in scene.served.document.operations
    }
    assert findings.calls > 100
    assert findings.statuses[200] > 10
    assert findings.statuses[400] > 10
    assert findings.statuses[500] == 0
