import time
from harness import key_slot
from harness.load import Load
import harness.load

def test_flip(servers):
    harness.load.BATCH = 400
    c = servers.cluster("redis-7.0", conf={"cluster-require-full-coverage": "no"})
    p = servers.crossfade(c, config={"workers": 2})
    slot = key_slot("{m}")
    node = c.node_for("{m}")
    with Load(p, c, clients=4) as load:
        for i in range(100):
            node.call("CLUSTER", "DELSLOTS", slot)
            time.sleep(0.004)
            node.call("CLUSTER", "ADDSLOTS", slot)
            time.sleep(0.03)
            if any(w.problems for w in load.writers):
                print("at", i)
                break
