#!/usr/bin/env python3
"""identity_provider.py CERTIFICATE KEY: an identity provider over HTTPS on a free port of this machine. The first line
that it prints is its URL. It ends with its standard input.

GET /keys: the JSON web key set. POST /token: the grant client_credentials, for the client `me` with the secret
`s:cret`; the token's subject is the scope that was asked for. A line of standard input is answered with a line: a JSON
object with a token that has these claims beside the usual ones, `rotate` with a new key in place of the former one."""
import base64
import hashlib
import http.server
import json
import secrets
import ssl
import sys
import threading
import time
import urllib.parse

DIGEST = bytes.fromhex("3031300d060960864801650304020105000420")
ISSUER = "https://provider.example"


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def is_prime(number):
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(24):
        power = pow(secrets.randbelow(number - 3) + 2, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def prime(bits):
    small = [3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97]
    while True:
        number = secrets.randbits(bits) | (3 << (bits - 2)) | 1
        if all(number % divisor for divisor in small) and number % 65537 != 1 and is_prime(number):
            return number


class Key:
    """RSA with 2048 bits, by nothing but the standard library."""

    def __init__(self, name):
        p, q = prime(1024), prime(1024)
        self.name, self.modulus, self.private = name, p * q, pow(65537, -1, (p - 1) * (q - 1))

    def public(self):
        modulus = encoded(self.modulus.to_bytes(256, "big"))
        return {"kty": "RSA", "kid": self.name, "alg": "RS256", "use": "sig", "n": modulus, "e": "AQAB"}

    def token(self, claims):
        header = {"alg": "RS256", "kid": self.name, "typ": "JWT"}
        text = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
        digest = DIGEST + hashlib.sha256(text.encode()).digest()
        padded = b"\0\1" + b"\xff" * (256 - 3 - len(digest)) + b"\0" + digest
        signature = pow(int.from_bytes(padded, "big"), self.private, self.modulus)
        return text + "." + encoded(signature.to_bytes(256, "big"))


keys = [Key("first")]


def claims(**others):
    now = int(time.time())
    return {"iss": ISSUER, "aud": "kafka", "sub": "alice", "iat": now, "exp": now + 600, **others}


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/keys":
            return self.answer(200, json.dumps({"keys": [keys[-1].public()]}))
        return self.answer(404, "{}")

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        expected = "Basic " + base64.b64encode(b"me:s:cret").decode()
        if self.headers.get("Authorization") != expected or form.get("grant_type") != ["client_credentials"]:
            return self.answer(401, '{"error":"invalid_client"}')
        token = keys[-1].token(claims(sub=form.get("scope", ["nobody"])[0]))
        return self.answer(200, json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 600}))

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(f"https://127.0.0.1:{server.server_port}", flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
for line in sys.stdin:
    if line.strip() == "rotate":
        keys.append(Key("after-" + keys[-1].name))
        print("ok", flush=True)
    else:
        print(keys[-1].token(claims(**json.loads(line))), flush=True)
