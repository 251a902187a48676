"""Drives the helper beside a real systemd-resolved, and answers for `vm` where banger would. Prints what it sees."""

import json
import socket
import subprocess
import sys
import threading
import time

BRIDGE = "bgb000000000005"
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
helper = subprocess.Popen([sys.argv[1]], stdin=theirs, env={})
asked = []


def ask(**message):
    ours.send(json.dumps(message).encode())
    answer = json.loads(ours.recv(65536))
    print(message["op"], answer["is"], answer.get("names_routed"))


def run(*words):
    said = subprocess.run(words, capture_output=True, text=True)
    return said.returncode, said.stdout + said.stderr


def serve():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 42069))
    while True:
        question, back = server.recvfrom(512)
        end = 12
        name = []
        while question[end]:
            name.append(question[end + 1 : end + 1 + question[end]].decode())
            end += question[end] + 1
        asked.append(".".join(name))
        address = question[end + 1 : end + 3] == b"\0\1"
        head = question[:2] + b"\x84\0\0\1\0" + bytes([address]) + b"\0\0\0\0"
        record = bytes([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 2, 0, 4, 10, 213, 0, 9])
        server.sendto(head + question[12 : end + 5] + (record if address else b""), back)


def check():
    ask(op="rules-check", subnet=0, policy={"ports": []})


threading.Thread(target=serve, daemon=True).start()
ask(op="hello", version=3, install="0" * 25 + "5")
check()
ask(op="bridge-ensure", subnet=0)
check()
ask(op="dns-route")
ask(op="dns-route")
check()
# A port, so that the link has a carrier as it has while a sandbox runs.
for words in (
    ["ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1"],
    ["ip", "link", "set", "p0", "master", BRIDGE, "up"],
    ["ip", "link", "set", "p1", "up"],
):
    assert run(*words)[0] == 0
deadline = time.time() + 10
while run("resolvectl", "query", "web.vm")[0] != 0 and time.time() < deadline:
    time.sleep(0.2)
print("web.vm", "10.213.0.9" in run("resolvectl", "query", "--cache=no", "web.vm")[1])
for name in ("www.example.org", "vm.example.org", "other.test"):
    run("timeout", "3", "resolvectl", "query", name)
print("asked", sorted(set(asked)))
run("resolvectl", "revert", BRIDGE)
check()
ask(op="dns-route")
check()
run("ip", "link", "del", "p0")
ask(op="bridge-remove")
check()
print("left", BRIDGE in run("resolvectl", "status")[1])
