"""What single clients need beyond the contract; each test says which."""

from tests.conftest import Deployment
from tests.scripts import script


def test_litellm_recognises_too_long_a_prompt_by_the_words_of_the_message_alone(deployment: Deployment) -> None:
    text = script(fail="prompt is too long: 210000 tokens > 200000 maximum")
    answer = deployment.chat({"messages": [{"role": "user", "content": text}]})
    assert "is longer than the model's context length" in answer.json()["error"]["message"]
