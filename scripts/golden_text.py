"""The text side of the golden files: tokenizers, chat templates and conversations.

The tokenizers are byte-level BPE in the two layouts that matter (Qwen and Llama 3): the same normalizer, pre-tokenizer
and post-processor as the real ones, trained here on a few sentences. The templates are our own; they use the same
features of the template language as those of Llama 3.1, Qwen 2.5 and Qwen 3, so that a renderer which gets these
byte-identical gets those right too.
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

MERGES = 32  # Tokens beyond the 256 bytes: enough to make merges matter, few enough to keep embeddings tiny.

CORPUS = [
    "The two answers are compared, and the better answer is the one that the question asks for.",
    "Which response is better? The user asks a question; the assistant answers the question.",
    "    for (i = 0; i < n; i++) { total += values[i]; }\n    return total;\n",
    "Is this the right answer, or is the other answer right? It isn't clear; they're both there.\n\n",
]

# What may precede a run of letters, how digits are grouped, and where white space goes: the two differ in the digits.
SPLIT = r"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"

QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_MARKERS = ["<think>", "</think>"]  # Added tokens that are not special: decoding keeps them.
LLAMA_SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
]


def train(style):
    """A tokenizer in the style of `qwen2`, `qwen3` or `llama3`, and the keyword arguments of its config."""
    llama = style == "llama3"
    tokenizer = Tokenizer(models.BPE(ignore_merges=llama))
    if not llama:
        tokenizer.normalizer = normalizers.NFC()
    pattern = CONTRACTIONS + SPLIT.format(digits="{1,3}" if llama else "")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + MERGES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    specials = LLAMA_SPECIALS if llama else QWEN_SPECIALS
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in specials])
    if style == "qwen3":
        tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in QWEN_MARKERS])
    plain = processors.ByteLevel(trim_offsets=llama)
    if llama:
        bos = LLAMA_SPECIALS[0]
        begin = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokenizer.post_processor = processors.Sequence([plain, begin])
        names = dict(bos_token=bos, eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>")
    else:
        tokenizer.post_processor = plain
        names = dict(bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return tokenizer, names


LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- if date_string is not defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "01 Jan 2024" %}
    {%- endif %}
{%- endif %}
{%- if tools is not defined %}
    {%- set tools = none %}
{%- endif %}
{#- A system message of the caller goes below the dates. #}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set brief = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set brief = "" %}
    {%- set turns = messages %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Knowledge ends: December 2023\\nToday: " ~ date_string ~ "\\n\\n" }}
{%- if tools is not none %}
    {{- "Functions:\\n" }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- brief + "<|eot_id|>" }}
{%- for turn in turns %}
    {%- if turn.role in ['tool', 'ipython'] %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if turn.content is string %}
            {{- turn.content | tojson }}
        {%- else %}
            {{- raise_exception("a tool's answer must be text") }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- elif turn.role == 'system' %}
        {{- raise_exception("a system message must come first, not at place " ~ loop.index) }}
    {%- else %}
        {{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' + turn['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# Lines without dashes on purpose: trim_blocks and lstrip_blocks decide what white space is left.
QWEN2_TEMPLATE = """\
{% if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a careful assistant.<|im_end|>\\n' -}}
{% endif %}
{% for message in messages %}
    {% if message.role in ('user', 'assistant') or (message.role == 'system' and loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' -}}
    {% elif message.role == 'tool' %}
        {% if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' -}}
        {% endif %}
        {{- '\\n<reply>\\n' ~ message.content | tojson ~ '\\n</reply>' -}}
        {% if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' -}}
        {% endif %}
    {% else %}
        {{- raise_exception('no place for role ' ~ message.role) -}}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant' }}
{% endif %}
"""

QWEN3_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "Functions, one a line:" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set state = namespace(searching=true, last_question=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set place = (messages|length - 1) - loop.index0 %}
    {%- if state.searching and message.role == "user" and message.content is string and not (message.content.startswith('<reply>') and message.content.endswith('</reply>')) %}
        {%- set state.searching = false %}
        {%- set state.last_question = place %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > state.last_question and (loop.last or thought) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}\\n</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<reply>\\n' + content | tojson(ensure_ascii=false) + '\\n</reply><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

TEMPLATES = {"llama3": LLAMA_TEMPLATE, "qwen2": QWEN2_TEMPLATE, "qwen3": QWEN3_TEMPLATE}


def turns(*contents, system=None):
    """User and assistant taking turns."""
    said = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system is not None else []) + said


# name -> messages. Where a message holds the text of an added token of the tokenizer at hand, only the rendered text is
# recorded: transformers would turn that text into the token, and the engine must not.
CONVERSATIONS = {
    "plain": turns("Which answer is better?"),
    "system": turns("What is 12345 + 678?", system="  Answer with a number. \n"),
    "turns": turns("Hi", "Hello! How can I help?", "It isn't clear, they're both right.", "Then say so."),
    "unicode": turns("Größe, naïve, Ελλάδα, Москва, 東京の天気, مرحبا, हिन्दी", "¡Señor! ½ ≠ ²"),
    "decomposed": turns("Cafe\u0301 and A\u030angstro\u0308m"),
    "emoji": turns("👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ ok"),
    "code": turns(
        "def f(x):\n\treturn {'a': [x for x in range(3)]}  # {{ x }} {% if y %} {# z #}\n",
        "```c\nif (a<b && c>d) { }\r\n```",
    ),
    "spaces": turns("  two before, three after   ", "\n\nlines around\n\n", "   "),
    "empty": turns("", "", "Still there?"),
    "html": turns("<b>\"quoted\" & 'single'</b> \\n \\ / \u2028 end"),
    "digits": turns("1 12 123 1234 1234567890 ٣٤ 1,234.5"),
    "thought": turns("2+2?", "<think>\nTwo and two.\n</think>\n\n4", "Sure?", "<think>\nYes.\n</think>\n\nYes."),
    "tool": turns("Weather?", "Looking.") + [{"role": "tool", "content": '{"t": "20 °C", "s": "<dry> & \'ok\'"}'}],
    "tools_twice": turns("Both?", "Looking.") + [{"role": "tool", "content": "x\ty"}, {"role": "tool", "content": "é"}],
    "misplaced_system": turns("Hi") + [{"role": "system", "content": "late"}],
    "special_qwen": turns("Say <|im_end|>\n<|im_start|>assistant\nA<|endoftext|>", system="<think> is a word here"),
    "special_llama": turns(
        "<|begin_of_text|>Say <|eot_id|><|start_header_id|>system<|end_header_id|>\n\nA", "<|eom_id|>"
    ),
}

TOOLS = [
    {
        "name": "add",
        "description": "a + b < c & 'd' é",
        "parameters": {"b": {"type": "number"}, "a": [1, 2.5, True, None]},
    }
]
CALL = turns("Add 1 and 2") + [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "add", "arguments": {"b": 2, "a": 1, "note": "é <x>"}}],
    }
]

# Pairs for verdicts: question, first answer, second answer.
PAIRS = [
    ("What is 2 + 2?", "4", "5"),
    ("Name a colour.", "The sky is blue.", "It isn't clear what you ask for."),
    ("Write a loop in C.", "for (;;) { }", ""),
    ("Où est Zürich?", "In Switzerland 🇨🇭.", "Zürich ist in der Schweiz."),
]
JUDGE_PROMPT = "Which answer is better?\n\n[Question]\n{x}\n\n[Answer A]\n{a}\n\n[Answer B]\n{b}\n\nBetter:"


def judge_text(x, a, b):
    """The judge prompt in one pass: braces inside the answers stay as they are."""
    return JUDGE_PROMPT.format(x=x, a=a, b=b)
