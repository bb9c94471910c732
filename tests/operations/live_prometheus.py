"""A Prometheus of its own with the files of deploy/prometheus, in which time goes faster."""
import json
import pathlib
import re
import socket
import subprocess
import urllib.parse
import urllib.request

RULES = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
SCRAPE_SECONDS = 15  # of prometheus.yml; here it is one
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def faster(text):
    """Alert rules in which every duration is as many times shorter as the time between scrapes: how long a condition
    must hold (`for:`), how far back is looked (`[10m]`), and how old a job in the queue may become (`_seconds > 1800`).
    Dates, such as the end of a certificate, are not durations and stay."""
    def shorter(match):
        seconds = int(match[2]) * SECONDS.get(match[3], 1)
        if seconds % SCRAPE_SECONDS:
            raise ValueError(f"{match[0]!r} is no whole number of scrapes")
        return f"{match[1]}{seconds // SCRAPE_SECONDS}{'s' if match[3] else ''}"
    text = re.sub(r"^( +for: )(\d+)([smhd])$", shorter, text, flags=re.M)
    text = re.sub(r"([\w}]\[)(\d+)([smhd])(?=\])", shorter, text)
    return re.sub(r"(_seconds > )(\d+)()$", shorter, text, flags=re.M)


class Prometheus:
    """Use as a context manager. Scrapes one coordinator, each second."""

    def __init__(self, folder, target):
        folder.mkdir()
        config = (RULES / "prometheus.yml").read_text()
        assert config.count(f"{SCRAPE_SECONDS}s") == 2 and config.count("127.0.0.1:7481") == 1
        config = config.replace(f"{SCRAPE_SECONDS}s", "1s").replace("127.0.0.1:7481", target)
        (folder / "prometheus.yml").write_text(config)
        (folder / "recording_rules.yml").write_text((RULES / "recording_rules.yml").read_text())
        (folder / "alert_rules.yml").write_text(faster((RULES / "alert_rules.yml").read_text()))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._log = open(folder / "prometheus.log", "wb")
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "prometheus", f"--config.file={folder / 'prometheus.yml'}",
             f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={self.address}"],
            stdout=self._log, stderr=self._log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def ready(self):
        if self._process.poll() is not None:
            raise AssertionError(f"Prometheus has ended: {pathlib.Path(self._log.name).read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=10):
                return True
        except OSError:
            return False

    def _get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters, doseq=True)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=60) as answer:
            return json.load(answer)["data"]

    def instant(self, expr, moment):
        """[{"metric": labels, "value": [moment, text]}]"""
        return self._get("query", query=expr, time=moment)["result"]

    def over_time(self, expr, start, end, step):
        """[{"metric": labels, "values": [[moment, text], ...]}]"""
        return self._get("query_range", query=expr, start=start, end=end, step=step)["result"]

    def label_values(self, series, label, start, end):
        return self._get(f"label/{label}/values", **{"match[]": series, "start": start, "end": end})

    def alerts(self, job=""):
        """Names of those that fire, about this job where there is one."""
        return {one["labels"]["alertname"] for one in self._get("alerts")["alerts"]
                if one["state"] == "firing" and job in ("", one["labels"].get("job"))}

    def fired(self, alert, start, end, job=""):
        """Moments, a second apart, at which it fired."""
        labels = f'alertname="{alert}", alertstate="firing"' + (f', job="{job}"' if job else "")
        found = self.over_time(f"ALERTS{{{labels}}}", start, end, 1)
        return sorted({moment for series in found for moment, _ in series["values"]})
