#!/usr/bin/env bash
# NGINX in front of 3 routers, by the shares of the plan
# phaseplan 0.0.0, plan sha256 <sha256>
set -euo pipefail
# shellcheck source=hosts.env
source "$(dirname -- "${BASH_SOURCE[0]}")/hosts.env"

# An address is a name or number; anything else would be directives.
[[ "${HOST_0}" =~ ^[][[:alnum:].:_-]+$ ]] || { printf '%s: not an address\n' HOST_0 >&2; exit 2; }
folder="$(mktemp -d)"
chmod 711 "${folder}"
printf '%s\n' \
  'daemon off;' \
  'pid nginx.pid;' \
  'error_log stderr;' \
  'events { worker_connections 16384; }' \
  'http {' \
  '  access_log off;' \
  '  client_body_temp_path client_body;' \
  '  proxy_temp_path proxy;' \
  '  fastcgi_temp_path fastcgi;' \
  '  uwsgi_temp_path uwsgi;' \
  '  scgi_temp_path scgi;' \
  '  client_max_body_size 64m;' \
  '  upstream routers {' \
  '    zone routers 64k;' \
  '    server '"${HOST_0}"':30000 weight=400;' \
  '    server '"${HOST_0}"':30001 weight=100;' \
  '    server '"${HOST_0}"':30002 weight=500;' \
  '  }' \
  '  server {' \
  '    listen 8000;' \
  '    location / {' \
  '      proxy_pass http://routers;' \
  '      proxy_http_version 1.1;' \
  '      proxy_buffering off;' \
  '      proxy_read_timeout 1h;' \
  '    }' \
  '  }' \
  '}' \
  > "${folder}/nginx.conf"
exec nginx -p "${folder}/" -c "${folder}/nginx.conf" "$@"
