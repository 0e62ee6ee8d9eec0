#!/usr/bin/env python3
"""prometheus_queries.py PROMETHEUS DASHBOARD TARGETS PENDING…: waits until Prometheus scrapes TARGETS processes, and
until each alert rule was evaluated without an error and the alerts PENDING are pending or firing. Without any PENDING
no alert may be, and each query of the dashboard must find something."""
import json
import signal
import sys
import time
import urllib.parse
import urllib.request

# For all waits together: what is missing is told before whoever runs this ends it.
PATIENCE_S = 150
signal.alarm(PATIENCE_S + 20)
end = time.monotonic() + PATIENCE_S
server, dashboard, targets, *pending = sys.argv[1:]


def ask(path, **parameters):
    with urllib.request.urlopen(f"{server}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
        answer = json.load(answer)
    assert answer["status"] == "success", answer
    return answer["data"]


def until(what, missing):
    """Asks again until nothing is missing."""
    while True:
        try:
            left = missing()
        except OSError as error:
            left = error
        if not left:
            return
        if time.monotonic() > end:
            sys.exit(f"{what}: {left}")
        time.sleep(0.5)


def targets_down():
    found = ask("targets")["activeTargets"]
    up = [target for target in found if target["health"] == "up"]
    return None if len(up) == int(targets) else [(target["scrapeUrl"], target["lastError"]) for target in found]


def queries_without_data():
    panels = json.load(open(dashboard))["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert queries, "the dashboard has no queries"
    return [query for query in queries if not finds(query)]


def finds(query):
    """Also zero; a quantile of nothing is NaN."""
    return any(row["value"][1] != "NaN" for row in ask("query", query=query)["result"])


def wrong_alerts():
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    assert rules, "no rules were loaded"
    bad = [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"]
    assert not bad, bad
    waits = [rule["name"] for rule in rules if rule["health"] != "ok"]
    active = {rule["name"] for rule in rules if rule["state"] != "inactive"}
    return waits or (set(pending) - active if pending else active)


until("targets that are not scraped", targets_down)
if not pending:
    until("queries that find nothing", queries_without_data)
until("alerts", wrong_alerts)
