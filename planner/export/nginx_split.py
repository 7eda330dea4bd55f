"""NGINX in front of the routers of a bundle: requests by the shares of a plan.

vllm-router knows no weights, so a plan that is routed by shares has a router for each
KV route in use, with one prefill and one decode replica behind it, and NGINX shares the
requests out over the routers.

Sources
-------
nginx.org/en/docs/http/ngx_http_upstream_module.html (``weight``: smooth weighted round
robin; ``zone``: one state for all worker processes), ngx_http_proxy_module.html
(``proxy_buffering off`` lets tokens through as they come), switches.html (``-p``: the
folder of relative names) and ngx_core_module.html (``pid``: a file that NGINX deletes
when it ends, so never a device; ``worker_connections``: 512 if not said, those to the
routers too).
"""

from collections.abc import Sequence

from planner.export.shell import Word, comment, quoted
from planner.export.vllm_router import Router
from planner.export.vllm_scripts import PREAMBLE, host, script

SPLIT_SCRIPT = "split.sh"
FIRST_SPLIT_PORT = 8000
"""Below the ports of the replicas (`planner.export.instances`)."""

_WEIGHTS = 1000
"""Weights are whole numbers; a share of 1 is so many."""

_CONNECTIONS = 16_384
"""Of a worker: two for each request under way."""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""Folders that NGINX makes on its start; its own ones may need rights."""


def split_script(routers: Sequence[Router], port: int, stamp: str) -> str:
    """Script that starts NGINX and stays with it.

    Parameters
    ----------
    routers
        Those of a plan that is routed by shares, each with its share.
    port
        Where clients send their requests.
    stamp
        What the bundle was made from.
    """
    lines: list[Word] = [
        "daemon off;",
        "pid nginx.pid;",
        "error_log stderr;",
        f"events {{ worker_connections {_CONNECTIONS}; }}",
        "http {",
        "  access_log off;",
        *(f"  {name}_temp_path {name};" for name in _TEMPORARY),
        "  client_max_body_size 64m;",
        "  upstream routers {",
        "    zone routers 64k;",
        *(_server(router) for router in routers),
        "  }",
        "  server {",
        f"    listen {port};",
        "    location / {",
        "      proxy_pass http://routers;",
        "      proxy_http_version 1.1;",
        "      proxy_buffering off;",
        "      proxy_read_timeout 1h;",
        "    }",
        "  }",
        "}",
    ]
    return script(
        comment(f"NGINX in front of {len(routers)} routers, by the shares of the plan"),
        comment(stamp),
        *PREAMBLE,
        "",
        comment("An address is a name or number; anything else would be directives."),
        *dict.fromkeys(_check(router) for router in routers),
        'folder="$(mktemp -d)"',
        'chmod 711 "${folder}"',
        "printf '%s\\n' \\",
        *(f"  {quoted(line)} \\" for line in lines),
        '  > "${folder}/nginx.conf"',
        'exec nginx -p "${folder}/" -c "${folder}/nginx.conf" "$@"',
    )


def _check(router: Router) -> str:
    """A line that stops the script where a node's address is no address."""
    variable = host(router.place)
    return (
        f"[[ {quoted(variable)} =~ ^[][[:alnum:].:_-]+$ ]] || "
        f"{{ printf '%s: not an address\\n' {quoted(variable.name)} >&2; exit 2; }}"
    )


def _server(router: Router) -> Word:
    weight = max(1, round(_WEIGHTS * (router.share_frac or 0.0)))
    return (
        "    server ",
        host(router.place),
        f":{router.http_port} weight={weight};",
    )
