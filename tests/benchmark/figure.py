"""One measured goal."""
import dataclasses
import typing


def shown(number):
    """Three digits, but whole numbers from a thousand on in full."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


class Skip(Exception):
    """Why a figure cannot be measured here."""


@dataclasses.dataclass
class Figure:
    name: str
    goal: float
    unit: str
    at_least: bool  # False: at most
    measure: typing.Callable  # (root) -> (value, how it was measured with its spread)

    def goal_text(self):
        return f"{'>=' if self.at_least else '<='} {shown(self.goal)}{self.unit}"

    def run(self, root):
        try:
            value, how = self.measure(root)
        except Skip as reason:
            return {"verdict": "skipped", "name": self.name, "value": "-", "goal": self.goal_text(), "how": str(reason)}
        except Exception as error:  # one figure that cannot be had must not hide the others
            return {"verdict": "missed", "name": self.name, "value": "-", "goal": self.goal_text(),
                    "how": " ".join(str(error).split())[-500:]}
        reached = value >= self.goal if self.at_least else value <= self.goal
        return {"verdict": "ok" if reached else "missed", "name": self.name, "value": f"{shown(value)}{self.unit}",
                "goal": self.goal_text(), "how": how}
