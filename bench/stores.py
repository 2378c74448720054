"""Times Python ProxyStore's stores against the servers of a benchmark run; one JSON object a line."""

from __future__ import annotations

import json
import statistics
import sys
import time

from proxystore.connectors.endpoint import EndpointConnector
from proxystore.connectors.file import FileConnector
from proxystore.connectors.redis import RedisConnector
from proxystore.store import Store

SIZES = ((1_000, 200), (100_000_000, 1))
BATCH_LEN, BATCH_COUNT = 10_000, 1_000
ROUNDS = 5


def put_and_get(store: Store, length: int, times: int) -> float:
    """Median seconds of a put and a get."""
    value = b'7' * length
    rounds = []
    for _ in range(ROUNDS + 1):
        spent = 0.0
        for _ in range(times):
            start = time.perf_counter()
            key = store.put(value)
            received = store.get(key)
            spent += time.perf_counter() - start
            assert len(received) == length
            store.evict(key)
        rounds.append(spent / times)
    return statistics.median(rounds[1:])


def batch(store: Store) -> float:
    """Median seconds of a put and a get of a batch."""
    values = [b'7' * BATCH_LEN] * BATCH_COUNT
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        keys = store.put_batch(values)
        received = store.connector.get_batch(keys)
        rounds.append(time.perf_counter() - start)
        assert len(received) == BATCH_COUNT
        for key in keys:
            store.evict(key)
    return statistics.median(rounds)


def report(place: str, operation: str, length: int, seconds: float) -> None:
    """Writes one figure."""
    print(json.dumps({'place': place, 'operation': operation, 'len': length, 'seconds': seconds}), flush=True)


def main() -> None:
    """Measures every place that is there."""
    places = json.loads(sys.argv[1])
    connectors = {'file': FileConnector(places['directory'], clear=False)}
    if places['redis_port']:
        connectors['redis'] = RedisConnector('127.0.0.1', places['redis_port'])
    connectors['endpoint'] = EndpointConnector([places['endpoint']], proxystore_dir=places['home'])
    for place, connector in connectors.items():
        with Store(f'bench-{place}', connector, cache_size=0, register=False) as store:
            for length, times in SIZES:
                report(place, 'put + get', length, put_and_get(store, length, times))
            if place != 'file':
                report(place, '1,000 in a batch / one by one', BATCH_LEN, batch(store))


if __name__ == '__main__':
    main()
