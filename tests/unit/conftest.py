"""What several tests of the service stand on; a module that needs another kitchen has its own."""

import pytest


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    from tests.serving import kitchen  # here, because other tests need not pay for the import

    return kitchen(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture
def service(here, tmp_path):
    service = here.service(tmp_path / "state")
    yield service
    service.close()
