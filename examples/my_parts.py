"""Parts of your own, one decorator each: `swift sft --external_plugins examples/my_parts.py ...`."""

import re

import torch
from transformers import LlamaForCausalLM, TrainerCallback

from swift.data import dataset
from swift.engines import ChatMessage, Choice, Delta, Response, Usage, engine
from swift.models import model_loader
from swift.objectives import objective
from swift.templates import chat_template, loss_scale
from swift.train import callback, metric
from swift.tuners import optimizer, tuner


@dataset("sums")
def sums():
    """Rows in any form that `--dataset` understands: `--dataset sums#20`."""
    for a in range(1, 10):
        for b in range(1, 10):
            yield {"query": f"What is {a} plus {b}?", "response": f"{a} plus {b} is {a + b}."}


@chat_template("dialogue")
def dialogue(tokenizer):
    """The Jinja text of a chat template: `--template dialogue`."""
    return (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}" + (tokenizer.eos_token or "") + "\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )


@loss_scale("numbers")
def numbers(answer, before):
    """Numbers weigh twice, the rest 1: `--loss_scale numbers`; stretches (start, stop, weight), in their order."""
    return [(match.start(), match.end(), 2.0) for match in re.finditer(r"\d+", answer)]


@tuner("norms")
def norms(model, config):
    """Train only the normalisation layers: `--train_type norms`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name)
    return model


@optimizer("sgd_with_momentum")
def sgd_with_momentum(model, args):
    """`--optimizer sgd_with_momentum`."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=args.learning_rate, momentum=0.9)


@objective("focal")
def focal(outputs):
    """Focal loss (Lin et al., 2017, eq. 5, gamma = 2), a sum over trained tokens: `--loss_type focal`."""
    from swift.objectives.types import Loss

    losses = -((1 - outputs.logps.exp()) ** 2) * outputs.logps
    return Loss(total=(losses if outputs.weights is None else losses * outputs.weights).sum())


@metric("first_digit")
def first_digit(predictions, labels):
    """Sums over trained tokens, divided by their number: `--eval_metric first_digit`."""
    return {"even": float((predictions % 2 == labels % 2).sum())}


@callback("announce")
class Announce(TrainerCallback):
    """`--callbacks announce`."""

    def on_train_end(self, args, state, control, **kwargs):
        """Say that the run is over."""
        print(f"announce: {state.global_step} steps")


@model_loader("EvenLlamaForCausalLM")
class EvenLlamaForCausalLM(LlamaForCausalLM):
    """Llama with attention scaled by 1 / d (Yang et al., 2022, definition 4.1), where config.json names this class."""

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.scaling = 1 / layer.self_attn.head_dim


@engine("echo")
class Echo:
    """Answers with the question: `--infer_backend echo`."""

    @classmethod
    def from_source(cls, source, template, config, *, max_batch_size, max_length, decisions):
        """Made by `swift infer`; a model would be loaded here from `source.path`."""
        return cls()

    def infer(self, requests, config=None, *, on_response=None):
        """One response for each request, in their order."""
        responses = []
        for number, request in enumerate(requests):
            text = request.messages[-1]["content"]
            responses.append(Response([Choice(0, ChatMessage("assistant", text), "stop", [], text)], Usage(0, 0)))
            if on_response is not None:
                on_response(number, responses[-1])
        return responses

    def stream(self, request, config=None):
        """The last piece carries the whole response."""
        response = self.infer([request], config)[0]
        yield Delta(response.choices[0].text, "stop", response)
