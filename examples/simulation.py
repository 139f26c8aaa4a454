"""A whole federation in ten lines: four owners, two domains, a language; half a minute on a CPU."""

import sys

from fedmore.sims import simulate

if __name__ == "__main__":
    report = simulate("smoke", sys.argv[1], seed=1, settings=["stages.0.codec=nf4"])
    for text, bits in report.bits_per_byte.items():
        print(f"{text:<8} base {bits.base.mean:.2f}, mixture {bits.mixture.mean:.2f} bits per byte")
