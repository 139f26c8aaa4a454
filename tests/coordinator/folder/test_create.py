import stat
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmore.coordinator.config.router_section import RouterSection
from fedmore.coordinator.config.schema import FederationConfig, load_config, parse_config
from fedmore.coordinator.config.sections import (
    BaseSection,
    EvaluationSection,
    FederationSection,
    ServerSection,
    WithdrawalSection,
)
from fedmore.coordinator.config.template import render
from fedmore.coordinator.folder import create as inits
from fedmore.coordinator.folder.invites import write_invite
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import ConfigError, RegistryError
from fedmore.protos.enrolment.invite import read_invite
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage, LanguageStage
from fedmore.strategies.stages.router import RouterStage

text = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=20)
plain = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
configs = st.builds(
    FederationConfig,
    federation=st.builds(
        FederationSection,
        name=plain,
        seed=st.integers(-(2**40), 2**40),
        clients=st.integers(1, 9),
        domains=st.lists(
            plain.filter(lambda name: name.casefold() != "public"),
            max_size=3,
            unique_by=str.casefold,
        ).map(tuple),
    ),
    base=st.builds(BaseSection, model=text.filter(bool), fingerprint=text),
    server=st.builds(ServerSection, port=st.integers(0, 65535), heartbeat_s=st.floats(0.1, 5)),
    stages=st.lists(
        st.one_of(
            st.builds(ExpertStage, learning_rate=st.floats(1e-6, 1)),
            st.builds(LanguageStage, first_layers=st.integers(1, 9)),
            st.builds(EmbeddingStage, quorum_fraction=st.floats(0, 1)),
            st.builds(RouterStage, rounds=st.integers(1, 9)),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda stage: stage.kind,
    ).map(tuple),
    router=st.builds(
        RouterSection,
        top_k=st.integers(1, 9),
        per_layer=st.booleans(),
        proxy_texts=st.dictionaries(plain, text, max_size=3),
        z_loss_weight=st.floats(0, 1),
    ),
    evaluation=st.builds(EvaluationSection, texts=st.dictionaries(plain, text, max_size=3)),
    withdrawal=st.builds(WithdrawalSection, recovery_rounds=st.integers(1, 3)),
)


@given(configs, st.booleans())
def test_what_is_written_reads_back_to_the_same(config: FederationConfig, full: bool) -> None:
    assert parse_config(tomllib.loads(render(config, full=full)), "test") == config


def test_a_federation_is_complete(federation: Path) -> None:
    assert load_config(federation).federation.domains == ("legal", "medical")
    assert [s.kind for s in load_config(federation).stages] == ["experts", "language", "router"]
    assert {p.name for p in federation.iterdir()} >= {"federation.toml", "registry.db", "tls"}
    assert stat.S_IMODE((federation / "tls" / "ca.key").stat().st_mode) == 0o600
    with Registry.open(federation) as registry:
        assert registry.members() == []


def test_a_federation_is_not_overwritten(federation: Path) -> None:
    before = (federation / "federation.toml").read_bytes()
    with pytest.raises(ConfigError, match="already holds a federation"):
        inits.create(federation, load_config(federation))
    assert (federation / "federation.toml").read_bytes() == before


def test_a_failed_init_can_be_tried_again(tmp_path: Path, federation: Path) -> None:
    (federation / "federation.toml").unlink()
    config = inits.new_config(name="demo", base="base", domains=("legal",))
    inits.create(federation, config)
    assert load_config(federation).federation.domains == ("legal",)


def test_a_stage_needs_somebody_to_train_in_it() -> None:
    config = inits.new_config(name="demo", base="base", domains=("legal",))
    assert [s.kind for s in config.stages] == ["experts", "router"]
    with pytest.raises(ConfigError, match="nothing to train"):
        inits.new_config(name="demo", base="base")


def test_listening_everywhere_needs_a_name_to_give_to_clients() -> None:
    with pytest.raises(ConfigError, match="--advertise"):
        inits.new_config(name="demo", base="base", domains=("a",), host="0.0.0.0")
    config = inits.new_config(
        name="demo", base="base", domains=("a",), host="0.0.0.0", advertise="hub.example.org"
    )
    assert inits.certificate_hosts(config) == ["hub.example.org", "localhost", "127.0.0.1"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ('seed = "1"', "federation.seed"),
        ("sed = 1", "federation.sed"),
        ("clients = 0", "federation"),
        ("domains = [1]", r"federation\.domains\[0\]"),
    ],
)
def test_a_malformed_toml_gives_the_dotted_path(tmp_path: Path, change: str, path: str) -> None:
    text = f'[federation]\nname = "x"\n{change}\n[base]\nmodel = "b"\n'
    (tmp_path / "federation.toml").write_text(text)
    with pytest.raises(ConfigError, match=path):
        load_config(tmp_path)


def test_a_folder_without_a_federation_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coordinator init"):
        write_invite(tmp_path, "amt", tmp_path / "amt.json")


def test_a_lost_registry_is_not_replaced_by_an_empty_one(federation: Path) -> None:
    (federation / "registry.db").unlink()
    with pytest.raises(RegistryError, match="is missing"):
        write_invite(federation, "amt", federation / "amt.json")
    assert not (federation / "registry.db").exists()


def test_an_invite_needs_a_port(federation: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.port is 0"):
        write_invite(federation, "amt", tmp_path / "amt.json")


def test_an_invite_is_private_and_lets_its_client_in(federation: Path, tmp_path: Path) -> None:
    out = tmp_path / "amt.json"
    with Registry.open(federation) as registry:
        registry.set_state("port", 4711)
        write_invite(federation, "amt", out)
        invite = read_invite(out)
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert (invite.federation, invite.name, invite.address) == ("demo", "amt", "127.0.0.1:4711")
        assert invite.ca == (federation / "tls" / "ca.pem").read_text()
        registry.enrol(invite.token, "amt", "expert", "legal", 4)


def test_an_insecure_invite_has_no_certificate(federation: Path, tmp_path: Path) -> None:
    with Registry.open(federation) as registry:
        registry.set_state("port", 4711)
    write_invite(federation, "amt", tmp_path / "amt.json", insecure=True)
    assert read_invite(tmp_path / "amt.json").ca is None


def test_an_invite_that_cannot_be_written_uses_up_nothing(federation: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        write_invite(federation, "amt", federation / "nowhere" / "amt.json")
    with Registry.open(federation) as registry:
        assert registry.invited() == []


def test_a_base_with_another_fingerprint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedmore.experts.base import model as bases
    from fedmore.experts.errors import BaseError

    monkeypatch.setattr(bases, "fingerprint_of", lambda _: "v2:found")
    monkeypatch.setattr(inits, "check_plan", lambda *_: None)
    config = inits.new_config(name="demo", base=str(tmp_path), domains=("legal",))
    named = replace(config, base=replace(config.base, fingerprint="sha256:wanted"))
    with pytest.raises(BaseError, match=r"v2:found.*sha256:wanted.*another version of fedmore"):
        inits.create(tmp_path / "federation", named)
    assert not (tmp_path / "federation").exists()
    assert inits.with_fingerprint(config).base.fingerprint == "v2:found"
