"""What NetworkPolicy objects let through between pods: peers by selectors of labels, ports by number and range."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Pod:
    namespace: str
    labels: dict


def selects(selector, labels):
    unknown = set(selector) - {"matchLabels"}
    if unknown:
        raise ValueError(f"{unknown} of a selector is not understood here")
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _peer_matches(peer, pod, home):
    unknown = set(peer) - {"podSelector", "namespaceSelector"}
    if unknown:
        raise ValueError(f"{unknown} of a peer is not understood here")
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace})
    else:
        in_namespace = pod.namespace == home
    return in_namespace and selects(peer.get("podSelector", {}), pod.labels)


def _port_matches(rule, protocol, port):
    return rule.get("protocol", "TCP") == protocol and rule["port"] <= port <= rule.get("endPort", rule["port"])


def _side_allows(policies, side, subject, peer, protocol, port):
    """A pod that no policy of a side selects is open on that side; else one rule of one policy has to match."""
    bound = [p for p in policies if p["metadata"]["namespace"] == subject.namespace and
             side in p["spec"]["policyTypes"] and selects(p["spec"]["podSelector"], subject.labels)]
    if not bound:
        return True
    key, direction = ("ingress", "from") if side == "Ingress" else ("egress", "to")
    for policy in bound:
        for rule in policy["spec"].get(key, []):
            peers, ports = rule.get(direction), rule.get("ports")
            if peers is not None and not any(_peer_matches(p, peer, subject.namespace) for p in peers):
                continue
            if ports is None or any(_port_matches(p, protocol, port) for p in ports):
                return True
    return False


def allowed(policies, source, target, port, protocol="TCP"):
    return (_side_allows(policies, "Egress", source, target, protocol, port) and
            _side_allows(policies, "Ingress", target, source, protocol, port))
