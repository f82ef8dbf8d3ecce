# placeholder until the real one is written
import math
from proxy.upstream.answer import Limits
class Deadlines:
    def __init__(self, config):
        self.l = Limits(first_byte_s=config.first_byte_timeout_s, between_bytes_s=config.between_bytes_timeout_s, total_s=config.timeout_s or math.inf)
    def limits(self, headers, model): return self.l
