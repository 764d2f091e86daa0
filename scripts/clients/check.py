"""Real clients against a server on tiny models: check.py GRAMOPHONE [CHECK..].

Each function with a name that begins with `check_` is a check; it gets the servers and fails by an exception.
"""

import asyncio
import importlib
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import time
import traceback
import types
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "target" / "clients"
KEY = "open-sesame"


class Server:
    """A running `gramophone serve`."""

    def __init__(self, program, model, *flags):
        command = [program, "serve", "--model", ROOT / "tests" / "golden" / model, "--addr", "127.0.0.1:0", "--quiet"]
        command += ["--served-model-name", "tiny", "--threads", "2", *flags]
        self.process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.process.stderr:
            said.append(line)
            if "serving on " in line:
                self.url = line.split("serving on ")[1].strip()
                return
        raise RuntimeError("the server did not start: " + "".join(said))

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=60) == 0, "the server did not stop well"

    def post(self, route, body, key=KEY):
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        request = urllib.request.Request(self.url + route, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


class Servers:
    """One that wants a key, one that does not, one with a scalar model."""

    def __init__(self, program):
        self.locked = Server(program, "qwen3", "--api-key", KEY)
        self.open = Server(program, "qwen3")
        self.scalar = Server(program, "qwen3_scalar")

    def stop(self):
        for server in (self.locked, self.open, self.scalar):
            server.stop()


def check_jevcompat(servers):
    """The conformance suite of the System One wire, its official SDK and the key included."""
    program = OUT / "bin" / "jevcompat"
    command = [str(program), "test", servers.locked.url, "--key", KEY]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0 and "conformant to spec" in ran.stdout, ran.stdout + ran.stderr


def check_openai_chat(servers):
    import openai

    client = openai.OpenAI(base_url=servers.locked.url + "/v1", api_key=KEY, max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    asked = dict(model="tiny", messages=[{"role": "user", "content": "Say something."}], max_completion_tokens=12, seed=3)
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2, n=2)
    first, second = whole.choices
    assert first.logprobs.content and len(first.logprobs.content[0].top_logprobs) == 2
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    again = client.chat.completions.create(**{**asked, "seed": 4})
    assert again.choices[0].message.content == second.message.content, "choice i is the seed's plus i"
    text, finish = "", None
    for chunk in client.chat.completions.create(**asked, stream=True):
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    assert (text, finish) == (first.message.content, first.finish_reason), "a stream says what the whole says"


def check_openai_errors(servers):
    import openai

    url = servers.locked.url + "/v1"
    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    messages = [{"role": "user", "content": "x"}]
    refused = [
        (openai.NotFoundError, lambda: client.chat.completions.create(model="nobody", messages=messages)),
        (openai.UnprocessableEntityError, lambda: client.chat.completions.create(model="tiny", messages=[])),
        (openai.UnprocessableEntityError, lambda: client.embeddings.create(model="tiny", input="x")),
        (openai.AuthenticationError, lambda: openai.OpenAI(base_url=url, api_key="no", max_retries=0).models.list()),
    ]
    for kind, call in refused:
        try:
            call()
        except kind as error:
            assert error.body["message"], error.body
        else:
            raise AssertionError(f"no {kind.__name__}")


def check_openai_decisions(servers):
    import openai

    client = openai.OpenAI(base_url=servers.locked.url + "/v1", api_key=KEY, max_retries=0)
    choices = [{"value": "A", "description": "the first"}, {"value": "B"}]
    questions = [
        {"type": "choice", "name": "winner", "instructions": "Which is better?", "choices": choices},
        {"type": "predicate", "name": "sure", "instructions": "Is it so?"},
        {"type": "score", "name": "grade", "instructions": "How good?", "levels": [{"label": "bad"}, {"label": "good"}]},
    ]
    decision = client.decisions.create(model="tiny", input="Some text.", questions=questions)
    winner, sure, grade = decision.answers
    assert winner.choice in ("A", "B") and abs(sum(p.probability for p in winner.probabilities) - 1) < 1e-9
    assert 0 <= sure.probability <= 1 and 0 <= grade.score <= 1
    assert decision.usage.input_tokens > 0


def check_openai_embeddings(servers):
    """A scalar model's reward as an embedding; the client asks for base64 of its own accord."""
    import openai

    client = openai.OpenAI(base_url=servers.scalar.url + "/v1", api_key="none", max_retries=0)
    text = "<|im_start|>user\nSay 1<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
    [packed] = client.embeddings.create(model="tiny", input=text).data[0].embedding
    [plain] = client.embeddings.create(model="tiny", input=[text], encoding_format="float").data[0].embedding
    classified = servers.scalar.post("/classify", {"model": "tiny", "input": text, "use_activation": False})
    assert abs(packed - plain) < 1e-6 and classified["data"][0]["probs"][0] == plain


def openrlhf_agent():
    """OpenRLHF's module with its reward client, without the package around it, which imports a whole trainer."""
    found = importlib.util.find_spec("openrlhf")
    folder = pathlib.Path(found.submodule_search_locations[0])
    for name, path in (("openrlhf", folder), ("openrlhf.utils", folder / "utils")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    return importlib.import_module("openrlhf.utils.agent")


class Letters:
    """A tokenizer whose tokens are characters, with what the executor calls of one."""

    class Row(list):
        def tolist(self):
            return list(self)

    def __call__(self, text, **_):
        return {"input_ids": [Letters.Row(map(ord, text))]}

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


class Policy:
    """An engine that always writes the same."""

    def __init__(self, text):
        self.text = text

    async def generate(self, prompt, params, **_):
        said = types.SimpleNamespace(token_ids=list(map(ord, self.text)), text=self.text, finish_reason="stop", logprobs=None)
        return types.SimpleNamespace(outputs=[said])


def check_openrlhf(servers):
    """OpenRLHF's own executor: it writes a sample, asks for its reward, and hands both to the trainer."""
    agent = openrlhf_agent()
    prompt = "<|im_start|>user\nSay 1<|im_end|>\n<|im_start|>assistant\n"
    params = types.SimpleNamespace(max_tokens=64, logprobs=None)

    def sample(server, label):
        executor = agent.SingleTurnAgentExecutor(server.url + "/get_reward")
        return asyncio.run(executor.execute(prompt, label, params, 4096, Letters(), Policy("1<|im_end|>")))

    judged = sample(servers.open, "no no")
    native = servers.open.post("/v1/judge", {"prompt": "Say 1", "a": "1", "b": "no no"})
    assert judged["reward"] == [native["p"]] and judged["scores"] == [native["p"]], judged
    assert judged["extra_logs"]["invalid"] == [0.0]
    assert all(isinstance(x, float) for values in judged["extra_logs"].values() for x in values), judged["extra_logs"]
    scalar = sample(servers.scalar, None)
    assert len(scalar["reward"]) == 1 and 0 <= scalar["scores"][0] <= 1


def check_status_page(servers):
    """The page in Chromium: filled, alive, quiet, wide and narrow, light and dark. Pictures go to target/clients."""
    from playwright.sync_api import sync_playwright

    server = servers.locked
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        grounds = set()
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)):
            page = browser.new_page(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                http_credentials={"username": "me", "password": KEY},
            )
            asked, complaints = [], []
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(server.url + "/")
            page.wait_for_function("document.getElementById('model').textContent === 'tiny'")
            page.wait_for_function("document.getElementById('word').textContent === 'ready'")
            page.wait_for_function("document.getElementById('t-judgments').textContent !== '–'")
            before = page.inner_text("#t-judgments")
            for i in range(5):
                server.post("/v1/judge", {"prompt": f"Say {i}", "a": "1", "b": "no " * (i + 1)})
            page.wait_for_function("before => document.getElementById('t-judgments').textContent !== before", arg=before)
            page.wait_for_function("document.querySelectorAll('#scores rect').length >= 5")
            page.wait_for_function("document.querySelectorAll('#wires li').length >= 1")
            page.wait_for_function("parseFloat(document.getElementById('p50').textContent) > 0")
            overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, f"{overflow} pixels too wide at {width}"
            grounds.add((scheme, page.evaluate("getComputedStyle(document.body).backgroundColor")))
            page.screenshot(path=OUT / f"status-{scheme}-{width}.png", full_page=True)
            strangers = [url for url in asked if not url.startswith((server.url + "/", "data:"))]
            assert not strangers, strangers
            # A browser learns from the first answer that a key is wanted.
            complaints = [text for text in complaints if "401" not in text]
            assert not complaints, complaints
            page.close()
        assert len({ground for _, ground in grounds}) == 2, grounds
        browser.close()


def main():
    program, only = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    checks = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}
    unknown = set(only) - set(checks)
    if unknown:
        sys.exit(f"there is no check {', '.join(sorted(unknown))}; there are {', '.join(checks)}")
    servers, failed = Servers(program), 0
    for name in only or checks:
        start = time.monotonic()
        try:
            checks[name](servers)
            word = "ok"
        except Exception:
            traceback.print_exc()
            word, failed = "FAILED", failed + 1
        print(f"client {name} ... {word} ({time.monotonic() - start:.1f} s)", flush=True)
    servers.stop()
    ran = len(only or checks)
    print(f"{ran - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
