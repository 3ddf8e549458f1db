"""A small project and a fake of its models: real cards, templates, filters and packs, stories from a list."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from gonbuild.pipeline import Project
from gonbuild.records import NO_PREFERENCES, Candidate, Preferences, Progress, Request, Row
from gonbuild.settings import load_settings
from gonbuild.store import Store

REPOSITORY = Path(__file__).parent.parent

DECK = """\
deck: Thử
cards:
  - id: rung-001
    name: Gieo Hạt Trên Đồi
    type: Bảo Vệ
    effect: +2 điểm cho Rừng
    examples:
      - Học sinh gieo hạt keo lên ngọn đồi trọc sau cơn mưa. Cây mọc kín đồi nên Rừng tăng 2 điểm.
  - id: lang-001
    name: Quét Ngõ Sáng Chủ Nhật
    type: Cộng Đồng
    effect: +1 điểm cho Làng
    examples:
      - Sáng chủ nhật, cả xóm mang chổi ra quét ngõ và nhổ cỏ. Lối đi sạch bóng, Làng tăng 1 điểm.
  - id: song-001
    name: Rác Trôi Theo Lũ
    type: Thiên Tai
    effect: -1 điểm cho Sông
    examples:
      - Nước lũ cuốn túi nhựa và cành khô xuống bến đò. Cá không còn chỗ thở, Sông mất 1 điểm.
"""

SCENES = (
    "Bé Na dậy thật sớm, xách bình tưới ra vườn và hát cho mấy mầm cây nghe",
    "Ông nội kể rằng ngày xưa ở đây cò trắng bay về kín cả bờ tre",
    "Đội tình nguyện đạp xe qua cầu gỗ, mang theo giỏ tre đựng đầy dụng cụ",
    "Cô giáo vẽ lên bảng một con mắt nước và hỏi cả lớp nó thấy điều gì",
    "Mấy chú kiến nối đuôi nhau chạy lên cao, báo hiệu trời sắp đổ mưa",
    "Bác nông dân ngồi nghỉ dưới gốc đa, lắng nghe tiếng gió từ phía núi",
    "Chợ phiên họp từ tinh mơ, ai cũng cười nói và nhường lối cho nhau",
    "Con trâu già chậm rãi bước qua cánh đồng vừa gặt còn thơm mùi rơm",
    "Chị Hoa ghé xưởng mộc xin mùn cưa về lót ổ cho đàn gà con",
    "Trăng lên khỏi ngọn cau, ếch nhái gọi nhau râm ran khắp bờ ao",
    "Bố đóng một chiếc bè nhỏ từ thân chuối để hai anh em tập bơi",
    "Lũ trẻ xếp thuyền giấy thả xuống rãnh nước rồi chạy theo reo hò",
    "Bà ngoại phơi thóc ngoài sân đình, thỉnh thoảng lại xua lũ chim sẻ",
    "Thầy hiệu trưởng treo chiếc chuông đồng mới đúc lên cành phượng",
    "Người thợ gốm nhào đất sét mềm như bánh rồi nặn thành chiếc bình",
    "Mùa gió chướng thổi về, thuyền cá nằm im lìm bên cồn cát trắng",
)


def clause(prompt: str) -> str:
    """Tells the effect that a prompt of this project asks for."""
    effect = prompt.partition("Hiệu ứng: ")[2].split("<|end|>")[0]
    if len(effect.split()) < 2:  # a template of a test may leave it out
        return "mọi người đều vui"
    sign, points, region = effect[0], effect[1], effect.split()[-1][:80]  # a model's tokens have an end
    return f"{region} {'tăng' if sign == '+' else 'mất'} {points} điểm"


class FakeModels:
    """Trains by writing a digest, generates from SCENES by card, prompt and index; `log` tells what was asked."""

    def __init__(self, bad: Sequence[str] = (), base: str = "fake-base-1", held_out: Sequence[str] = ()) -> None:
        self.log: list[str] = []
        self.others_wait = True
        self.names = frozenset(held_out)
        self.bad = set(bad)
        """Cards whose candidates tell no effect."""
        self.base = base

    def identity(self) -> str:
        return self.base

    def held_out(self) -> frozenset[str]:
        return self.names

    def train(
        self,
        rows: Sequence[Row],
        folder: Path,
        work: Path,
        progress: Progress,
        preferences: Preferences = NO_PREFERENCES,
    ) -> None:
        self.log.append(f"train {len(rows)}")
        progress("training", 1, 1)
        (folder / "adapter_model.safetensors").write_bytes(hashlib.sha256(repr(rows).encode()).digest())

    def help(self, rows: Sequence[Row], work: Path) -> None:
        self.log.append(f"help {len(rows)}")

    def let_go(self) -> None:
        self.others_wait = False

    def unload(self) -> None:
        """Has nothing loaded."""

    def generate(
        self, folder: Path | None, requests: Sequence[Request], progress: Progress
    ) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
        seed = (folder / "adapter_model.safetensors").read_bytes() if folder else self.base.encode()
        for done, request in enumerate(requests, 1):
            self.log.append(f"generate {request.card} {request.first}-{request.last}")
            yield request, tuple(self._candidate(request, i, seed) for i in range(request.first, request.last))
            progress("generating", done, len(requests))

    def measure(self, folder: Path | None, rows: Sequence[Row], progress: Progress) -> dict[str, float]:
        self.log.append(f"measure {len(rows)}")
        progress("measuring", len(rows), len(rows))
        return {"bits_per_byte": 1.5, "perplexity": 9.0} if folder else {"bits_per_byte": 2.0, "perplexity": 16.0}

    def _candidate(self, request: Request, index: int, seed: bytes) -> Candidate:
        draw = hashlib.sha256(seed + f"{request.card} {request.prompt.text} {index}".encode()).digest()
        scene = SCENES[draw[0] % len(SCENES)]
        ending = "mọi người đều vui" if request.card in self.bad else clause(request.prompt.text)
        return Candidate(
            request.card, index, f"{scene}. {ending}.".replace(". m", ", m"), 20, -40.0, -60.0 - draw[1], True
        )


def make_project(root: Path, deck: str = DECK, settings: str = "", models: FakeModels | None = None) -> Project:
    """Writes the small project into a folder (or over what is there) and opens it."""
    (root / "cards").mkdir(parents=True, exist_ok=True)
    (root / "cards" / "thu.yaml").write_text(deck, encoding="utf-8")
    if not (root / "templates").exists():
        shutil.copytree(REPOSITORY / "templates", root / "templates")
    toml = f'[tool.gonbuild]\nprofile = "nano"\n{settings}'
    (root / "pyproject.toml").write_text(toml, encoding="utf-8")
    return open_project(root, models)


def open_project(root: Path, models: FakeModels | None = None) -> Project:
    """Opens a project folder with the fake models."""
    return Project(root, load_settings(root), Store(root / "build" / "cache"), models or FakeModels())
