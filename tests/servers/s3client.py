"""A small S3 client on the standard library alone: for setting servers up, and for tests that look into a bucket
behind the engine's back. Signs with AWS Signature Version 4, path style, whole bodies."""

import datetime
import hashlib
import hmac
import http.client
import ssl
import urllib.parse
import xml.etree.ElementTree as xml


class Refused(Exception):
    """The server answered with a status other than 2xx: `status` is the number, `body` its text."""

    def __init__(self, what, status, body):
        super().__init__(f"{what}: {status} {body[:300].decode(errors='replace')}")
        self.status = status
        self.body = body


class Bucket:
    """One bucket of one server, described as in target/servers/s3.json."""

    def __init__(self, server, endpoint=None, access_key=None, secret_key=None):
        self.endpoint = urllib.parse.urlsplit(endpoint or server["endpoint"])
        self.region = server["region"]
        self.access_key = access_key or server["access_key"]
        self.secret_key = secret_key or server["secret_key"]
        self.name = server["bucket"]
        self.ca_file = server.get("ca_file")

    def create(self):
        """Makes the bucket."""
        self.request("PUT", "")

    def put(self, key, body, new=False):
        """Stores `body` (bytes) as `key`; with `new` only if there is no such key (else Refused with 412)."""
        self.request("PUT", key, body=body, headers={"if-none-match": "*"} if new else {})

    def get(self, key):
        """The bytes of `key`."""
        return self.request("GET", key)

    def delete(self, key):
        """Removes `key`; absent is success."""
        self.request("DELETE", key)

    def list(self, prefix=""):
        """All keys that start with `prefix`, with their sizes in bytes."""
        found, token = {}, None
        while True:
            query = {"list-type": "2", "prefix": prefix}
            if token:
                query["continuation-token"] = token
            page = xml.fromstring(self.request("GET", "", query=query))
            for item in page.iterfind("{*}Contents"):
                found[item.findtext("{*}Key")] = int(item.findtext("{*}Size"))
            token = page.findtext("{*}NextContinuationToken")
            if not token:
                return found

    def request(self, method, key, query=None, body=b"", headers=None):
        """One signed request; returns the answer's body."""
        path = f"/{self.name}/{urllib.parse.quote(key)}" if key else f"/{self.name}"
        query_text = "&".join(
            f"{urllib.parse.quote(k, safe='')}={urllib.parse.quote(v, safe='')}" for k, v in sorted((query or {}).items())
        )
        signed = self._sign(method, path, query_text, body, headers or {})
        connection = self._connect()
        try:
            connection.request(method, path + ("?" + query_text if query_text else ""), body=body, headers=signed)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise Refused(f"{method} {path}", answer.status, data)
        return data

    def _connect(self):
        if self.endpoint.scheme == "https":
            context = ssl.create_default_context(cafile=self.ca_file)
            return http.client.HTTPSConnection(self.endpoint.netloc, timeout=60, context=context)
        return http.client.HTTPConnection(self.endpoint.netloc, timeout=60)

    def _sign(self, method, path, query_text, body, headers):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        body_hash = hashlib.sha256(body).hexdigest()
        signed = {**headers, "host": self.endpoint.netloc, "x-amz-content-sha256": body_hash, "x-amz-date": now}
        names = ";".join(sorted(signed))
        canonical_headers = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        canonical = "\n".join([method, path, query_text, canonical_headers, names, body_hash])
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + self.secret_key).encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        credential = f"Credential={self.access_key}/{scope}"
        signed["authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
        return signed
