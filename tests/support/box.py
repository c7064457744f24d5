"""A box of devices on a Switch: an agent that spawns and dismisses as it is told, and its workers, by hand."""

from switch import NAMES, Switch, card, inc, secret

from tokenyard.broker.wire import (
    PROTOCOL,
    AgentHello,
    Beat,
    Dismiss,
    Exited,
    Goodbye,
    Kill,
    Message,
    Post,
    Spawn,
    Spawned,
    WorkerHello,
    WorkerJob,
)


class Box:
    """`slots` and `memory_bytes` by device. Workers are called after post and life: `box/0.1`."""

    def __init__(
        self, switch: Switch, slots: dict[str, int], memory_bytes: dict[str, int] | None = None, name: str = "box"
    ) -> None:
        self.switch = switch
        self.name = name
        self.slots = slots
        self.memory_bytes = memory_bytes or {}
        self.posts: dict[int, Post] = {}
        self.lives: dict[int, int] = {}
        self.spawned: dict[int, int] = {}  # req → post
        self.num_spawns = 0
        self.percent = 0
        """How far workers say that they are with loading."""
        self.num_posts = 0

    # as it is told

    def obey(self) -> list[Message]:
        """Carry out what the broker has asked for; returns that."""
        mail = self.switch.mail(self.name)
        for message in mail:
            match message:
                case Spawn(req, model, device, on_demand):
                    self.num_spawns += 1
                    if req not in self.spawned:
                        self.spawned[req] = self.post(model, device, named=not on_demand)
                    self.switch.tell(self.name, Spawned(req, self.posts[self.spawned[req]].inc))
                case Dismiss(number) if number in self.posts:
                    self.posts[number] = self.posts[number]._replace(leaving=True)
                    self.hello()
                case Kill():
                    number = next(number for number, post in self.posts.items() if post.inc == message.inc)
                    self.die(number)
        return mail

    def hello(self) -> None:
        posts = list(self.posts.values())
        workers = [post.inc for post in posts if post.inc]
        devices = list(self.slots)
        slots, memory = list(self.slots.values()), [self.memory_bytes.get(device, 0) for device in devices]
        mine = (devices, workers, [], posts, slots, memory)
        proofs = [secret(NAMES[one]) for one in workers]
        hello = AgentHello(PROTOCOL, inc(self.name), 3, *mine, secret=secret(self.name), proofs=proofs)
        self.switch.tell(self.name, hello)

    def post(self, model: str, device: str, named: bool = True, pinned: bool = False) -> int:
        """A new post and its first life, which loads."""
        number, self.num_posts = self.num_posts, self.num_posts + 1
        self.posts[number] = Post(number, model, model, device, b"", pinned, named)
        self.lives[number] = -1
        self.live(number)
        return number

    # its workers

    def worker(self, number: int) -> str:
        return f"{self.name}/{number}.{self.lives[number]}"[:8]

    def live(self, number: int) -> None:
        self.lives[number] += 1
        self.posts[number] = self.posts[number]._replace(inc=inc(self.worker(number)))
        self.hello()
        self._worker_says(number, "loading")

    def up(self, number: int) -> None:
        """It has loaded."""
        self._worker_says(number, "ready")

    def beat(self, number: int, *jobs: WorkerJob) -> None:
        worker = self.worker(number)
        self.switch.tell(worker, Beat(inc(worker), "ready", 1, 0, list(jobs), {"loading_percent": self.percent}))

    def drained(self, number: int) -> None:
        """A dismissed post has finished its jobs."""
        post = self.posts.pop(number)
        assert post.leaving
        worker = self.worker(number)
        self.switch.tell(worker, Goodbye(inc(worker)))
        self.switch.tell(self.name, Exited(post.inc, "drained", "ended as asked", True))
        self.hello()

    def die(self, number: int, words: str = "", final: bool = False) -> None:
        """Its life ends; without `final` the next one follows at once."""
        post = self.posts[number]
        final = final or post.leaving
        self.switch.gone(self.worker(number))
        self.switch.tell(self.name, Exited(post.inc, "crash", words, final))
        if final:
            del self.posts[number]
            self.hello()
        else:
            self.live(number)

    def _worker_says(self, number: int, state: str) -> None:
        worker, post = self.worker(number), self.posts[number]
        known = card(post.model, created=1) if state == "ready" else None
        mine = (f"ipc://{worker}", 4, known, [], worker, "", secret(worker))
        self.switch.tell(worker, WorkerHello(PROTOCOL, inc(worker), 2, state, *mine))
