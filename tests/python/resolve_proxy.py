"""Unpickles a proxy that another process made, and writes what it stands for as JSON.

The only way to the object is the endpoint in this process's own ProxyStore home."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

from proxystore.proxy import get_factory, is_resolved

if __name__ == '__main__':
    proxy = pickle.loads(Path(sys.argv[1]).read_bytes())
    assert not is_resolved(proxy)
    content = list(proxy)
    connector = get_factory(proxy).get_store().connector
    print(json.dumps({'content': content, 'through': str(connector.endpoint_uuid)}))
