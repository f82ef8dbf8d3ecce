#!/bin/sh
# Make the secrets of deploy/compose.yaml in deploy/secrets, those that are not there yet. What is there stays, but for
# what was made of a file that is gone: store_url of valkey_password, client_key and metrics_key of keys/keys.json.
#
#   PROXY=.venv/bin/devstral-proxy deploy/secrets.sh
#
# The key for clients is in client_key. To replace a secret: remove its file, run this again, and make the containers
# anew, which hold the old file: make up PROFILE=... ARGS=--force-recreate. A key is revoked first:
# devstral-proxy keys revoke NAME --keys-file deploy/secrets/keys/keys.json. Grafana reads its password when it is first
# started, and takes another one in its own pages.
set -eu

cd "$(dirname "$0")"
proxy=${PROXY:-devstral-proxy}
case $proxy in
    /*) ;;
    */*) proxy=$OLDPWD/$proxy ;;
esac
umask 077
mkdir -p secrets/keys
cd secrets
chmod 0755 keys

# 256 random bits, as hexadecimal digits.
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
# Readable by the containers' users. What keeps others of this machine out is the folder.
keep() { cat > "$1.new" && chmod 0444 "$1.new" && mv "$1.new" "$1"; }

# They are made of another file: where that is made anew, so are these.
[ -s valkey_password ] || rm -f store_url
[ -s keys/keys.json ] || rm -f client_key metrics_key
for name in valkey_password vllm_api_key grafana_password; do
    [ -s "$name" ] || random | keep "$name"
done
[ -s store_url ] || printf 'valkey://:%s@valkey:6379/0' "$(cat valkey_password)" | keep store_url
for name in client metrics; do
    if [ ! -s "${name}_key" ]; then
        tier=$([ "$name" = metrics ] && echo operator || echo default)
        key=$("$proxy" keys add "$name" --tier "$tier" --keys-file keys/keys.json)
        printf '%s' "$key" | keep "${name}_key"
    fi
done
# Salted hashes of 256 random bits: nobody gets a key out of them.
chmod 0644 keys/keys.json
