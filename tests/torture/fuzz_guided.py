"""Fuzzes one kind of file guided by coverage, with atheris: KEPT FOLDER SEED KIND RUNS ROWS. Owns no rule and no input.

A process of its own: coverage is of what was imported while atheris looked on, and libFuzzer ends its process.
"""

import json
import sys
from pathlib import Path
from random import Random

import atheris

SLOWER = 3.0
"""How much longer a command may take while its coverage is measured."""


def main(kept: Path, folder: Path, seed: int, name: str, runs: int, rows: Path) -> None:
    """Runs inputs that grow out of the valid file and of some that were made; never returns."""
    with atheris.instrument_imports(include=["gonbuild"]):  # modules are imported late, while the project is built
        from torture.fuzz import end, told
        from torture.fuzz_bench import CPU_S, KINDS, Bench
        from torture.fuzz_inputs import dictionary, fuzzed

        bench = Bench(folder / "project", cpu_s=SLOWER * CPU_S)
    valid = bench.valid[KINDS[name].path]
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir()
    (corpus / "valid").write_bytes(valid)
    for n in range(20):
        (corpus / f"made-{n}").write_bytes(fuzzed(name, valid, Random(f"{seed}:{name}:{n}")))
    escaped = ("".join(f"\\x{byte:02x}" for byte in w.encode("utf-8", "surrogatepass")) for w in dictionary() if w)
    words.write_text("".join(f'"{word}"\n' for word in escaped if len(word) < 240))

    def one(data: bytes) -> None:
        (kept / f"{name}.last").write_bytes(data)
        reason = bench.check(name, data)
        row = (
            {"failure": told(kept, name, f"guided by seed {seed}", reason, data)} if reason else {"codes": [end(bench)]}
        )
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    options = [f"-runs={runs}", f"-seed={seed + 1}", "-max_len=65536", "-timeout=0", "-rss_limit_mb=0", "-verbosity=0"]
    atheris.Setup(["fuzz", *options, f"-dict={words}", f"-artifact_prefix={folder}/", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), Path(sys.argv[6]))
