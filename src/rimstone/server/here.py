"""Which service serves in this process: the caller's own, or a worker process."""

from rimstone.hub import current_hub, get_hub
from rimstone.iomodel import IOModel
from rimstone.server.address import Listener
from rimstone.server.blocking import BlockingService
from rimstone.server.service import Cells, Handler, Service, default_limit
from rimstone.server.tasks import TaskService
from rimstone.server.threads import ThreadsService

__all__ = ["BLOCKING", "service_here"]

BLOCKING = "blocking"  # the name of the model that needs no hub


def service_here(
    listener: Listener,
    handler: Handler,
    most: int | None,
    cells: Cells,
    first_cell: int,
    *,
    threads: int,
    model: type[IOModel] | str | None,
    own_threads: bool = False,
) -> Service:
    """The service for one process.

    Args:
        listener: See `TaskService`.
        handler: Called with each connection.
        most: Most connections at once in this process; None takes it from the descriptors that are left.
        cells: See `TaskService`.
        first_cell: Of the first hub; the others follow.
        threads: How many hubs.
        model: Of the hubs; `BLOCKING`; or None.
        own_threads: Do not use the calling thread's hub. Also: other processes accept from the same listener.
    """
    limit = default_limit(threads=model == BLOCKING) if most is None else most
    limit = max(limit, threads)
    if isinstance(model, str):
        return BlockingService(listener, handler, limit, cells, first_cell)
    if threads == 1 and not own_threads:
        hub = current_hub()
        if hub is None or model is None or type(hub.io) is model:
            return TaskService(hub or get_hub(model), listener, handler, limit, cells, first_cell)
    return ThreadsService(
        *(listener, handler, limit, cells, first_cell), threads=threads, model=model, takes_turns=own_threads
    )
