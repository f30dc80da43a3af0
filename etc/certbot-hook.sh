#!/bin/sh
# A deploy hook of certbot: the daemon may read the renewed certificate and its key, and serves them to new connections.
# Calls and open connections go on. Install:
#   install -m 755 etc/certbot-hook.sh /etc/letsencrypt/renewal-hooks/deploy/calledin
#   certbot certonly --standalone -d calls.example.com        (or --webroot, or a plugin for your DNS)
# and in /etc/calledin/calledin.toml:
#   tls_listen = ["0.0.0.0:443"]
#   certificate = "/etc/calledin/tls/fullchain.pem"
#   private_key = "/etc/calledin/tls/privkey.pem"
# calledin.service has a user of its own (DynamicUser) that can't read /etc/letsencrypt. So the files are copied where a
# group can read them, which the unit joins: systemctl edit calledin, and write
#   [Service]
#   SupplementaryGroups=ssl-cert
set -eu
: "${RENEWED_LINEAGE:?is set by certbot: the folder of the certificate that was renewed}"
group=${CALLEDIN_GROUP:-ssl-cert}
target=${CALLEDIN_TLS:-/etc/calledin/tls}
# Without systemd, CALLEDIN_PID is the process to tell.

# A host may have certificates for other things: with CALLEDIN_DOMAIN only that one is taken.
if [ -n "${CALLEDIN_DOMAIN:-}" ] && [ "$(basename "$RENEWED_LINEAGE")" != "$CALLEDIN_DOMAIN" ]; then
    exit 0
fi
getent group "$group" >/dev/null || groupadd --system "$group"
install -d -m 750 -g "$group" "$target"
for file in fullchain.pem privkey.pem; do
    # By renaming: whoever reads it meanwhile sees the old one or the new one, whole.
    install -m 640 -g "$group" "$RENEWED_LINEAGE/$file" "$target/$file.new"
    mv "$target/$file.new" "$target/$file"
done
if [ -n "${CALLEDIN_PID:-}" ]; then
    kill -HUP "$CALLEDIN_PID"
elif [ -d /run/systemd/system ]; then
    systemctl try-reload-or-restart --no-block calledin.service
fi
