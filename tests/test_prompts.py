"""Prompts are the authors', word for word, and reach the side they belong to."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from e5.prompts import (
    DEFAULT_TASK,
    TASKS,
    TEMPLATE,
    Prompts,
    document_prompt,
    is_template,
    prompts_from_names,
    query_prompt,
    resolve_task,
)

HUB = ("web_search_query", "sts_query", "summarization_query", "bitext_query")
EXTRA = ("miracl", "CQADupstack")  # families of retrieval sets that the authors match by prefix


class TestRegistry:
    """The names and texts of the model's authors."""

    def test_there_are_the_hubs_four_and_the_authors_sixty_eight_and_two_families(self) -> None:
        assert set(HUB) | set(EXTRA) <= set(TASKS)
        assert len(TASKS) - len(HUB) - len(EXTRA) == 68

    def test_no_two_names_differ_only_in_case(self) -> None:
        assert len({name.lower() for name in TASKS}) == len(TASKS)

    @pytest.mark.parametrize(
        ("name", "instruction"),
        [
            (
                "web_search_query",
                "Given a web search query, retrieve relevant passages that answer the query",
            ),
            ("sts_query", "Retrieve semantically similar text."),
            (
                "summarization_query",
                "Given a news summary, retrieve other semantically similar summaries",
            ),
            ("bitext_query", "Retrieve parallel sentences."),
            (
                "AmazonCounterfactualClassification",
                "Classify a given Amazon customer review text as either counterfactual or "
                "not-counterfactual",
            ),
            (
                "EmotionClassification",
                "Classify the emotion expressed in the given Twitter message into one of the six "
                "emotions: anger, fear, joy, love, sadness, and surprise",
            ),
            (
                "ArxivClusteringP2P",
                "Identify the main and secondary category of Arxiv papers based on the titles and "
                "abstracts",
            ),
            ("AskUbuntuDupQuestions", "Retrieve duplicate questions from AskUbuntu forum"),
            ("ArguAna", "Given a claim, find documents that refute the claim"),
            (
                "SciFact",
                "Given a scientific claim, retrieve documents that support or refute the claim",
            ),
            (
                "NFCorpus",
                "Given a question, retrieve relevant documents that best answer the question",
            ),
            (
                "SCIDOCS",
                "Given a scientific paper title, retrieve paper abstracts that are cited by the "
                "given paper",
            ),
            (
                "FiQA2018",
                "Given a financial question, retrieve user replies that best answer the question",
            ),
            ("NQ", "Given a question, retrieve Wikipedia passages that answer the question"),
        ],
    )
    def test_a_name_stands_for_the_authors_words(self, name: str, instruction: str) -> None:
        assert TASKS[name].instruction == instruction

    @pytest.mark.parametrize("name", TASKS)
    def test_an_instruction_is_one_clean_line(self, name: str) -> None:
        instruction = TASKS[name].instruction
        assert instruction == " ".join(instruction.split())
        assert not set("{}") & set(instruction)

    @pytest.mark.parametrize(
        ("name", "symmetric"),
        [
            ("Banking77Classification", True),
            ("ToxicConversationsClassification", True),
            ("TNews", True),
            ("RedditClustering", True),
            ("ThuNewsClusteringP2P", True),
            ("AskUbuntuDupQuestions", True),
            ("SprintDuplicateQuestions", True),
            ("TwitterSemEval2015", True),
            ("T2Reranking", True),
            ("Ocnli", True),
            ("sts_query", True),
            ("summarization_query", True),
            ("bitext_query", True),
            ("web_search_query", False),
            ("MSMARCO", False),
            ("ArguAna", False),
            ("QuoraRetrieval", False),
            ("T2Retrieval", False),
            ("miracl", False),
            ("CQADupstack", False),
        ],
    )
    def test_only_retrieval_leaves_documents_bare(self, name: str, symmetric: bool) -> None:
        assert TASKS[name].symmetric is symmetric

    def test_exactly_the_web_search_prompt_and_the_retrieval_sets_are_asymmetric(self) -> None:
        assert sum(not task.symmetric for task in TASKS.values()) == 1 + 22 + len(EXTRA)


class TestNames:
    """A task is found under any of its spellings; anything else is an instruction."""

    @pytest.mark.parametrize("name", TASKS)
    def test_case_and_outer_space_do_not_matter(self, name: str) -> None:
        assert resolve_task(f" {name.upper()}\n") == resolve_task(name.lower()) == TASKS[name]

    @pytest.mark.parametrize(
        ("alias", "name"),
        [
            ("fiqa", "FiQA2018"),
            ("trec-covid", "TRECCOVID"),
            ("climate-fever", "ClimateFEVER"),
            ("dbpedia-entity", "DBPedia"),
            ("webis-touche2020", "Touche2020"),
            ("quora", "QuoraRetrieval"),
            ("scifact", "SciFact"),
            ("nfcorpus", "NFCorpus"),
            ("CQADupstackAndroidRetrieval", "CQADupstack"),
            ("cqadupstack/english", "CQADupstack"),
            ("cqadupstack", "CQADupstack"),
        ],
    )
    def test_beirs_spellings_are_known(self, alias: str, name: str) -> None:
        assert resolve_task(alias) == TASKS[name]

    @given(
        task=st.text(min_size=1).filter(lambda task: task.strip().lower() not in ("nq", "quora"))
    )
    def test_free_text_is_its_own_instruction(self, task: str) -> None:
        free = f"Given {task}"
        assert resolve_task(free).instruction == free
        assert not resolve_task(free).symmetric


class TestPrompt:
    """What the model reads."""

    def test_the_template_is_the_models(self) -> None:
        assert TEMPLATE == "Instruct: {task}\nQuery: {query}"
        assert query_prompt("web_search_query", "what is snow") == (
            "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
            "Query: what is snow"
        )
        assert query_prompt(DEFAULT_TASK, "x") == query_prompt("web_search_query", "x")

    @pytest.mark.parametrize("blank", ["", " ", "\n\t "])
    def test_a_blank_task_leaves_the_text_bare(self, blank: str) -> None:
        assert query_prompt(blank, "what is snow") == "what is snow"
        assert (
            document_prompt(blank, "snow")
            == document_prompt(blank, "snow", symmetric=True)
            == "snow"
        )

    @given(task=st.text(), query=st.text())
    def test_every_character_survives(self, task: str, query: str) -> None:
        task = f"Find {task}"
        assert query_prompt(task, query) == "Instruct: " + task + "\nQuery: " + query

    @pytest.mark.parametrize("text", ["{task}", "{query}", "{}", "{0}", "{{a}}", "%s", "\\n", "$x"])
    def test_braces_and_other_marks_survive(self, text: str) -> None:
        assert query_prompt(f"Find {text}", "snow") == f"Instruct: Find {text}\nQuery: snow"
        assert query_prompt("Find twins", text) == f"Instruct: Find twins\nQuery: {text}"

    def test_documents_carry_the_prompt_of_symmetric_tasks_only(self) -> None:
        assert document_prompt("MSMARCO", "snow") == "snow"
        assert document_prompt("sts_query", "snow") == query_prompt("sts_query", "snow")
        assert document_prompt("Find twins", "snow") == "snow"
        prompt = "Instruct: Find twins\nQuery: snow"
        assert document_prompt("Find twins", "snow", symmetric=True) == prompt


class TestTemplate:
    """A checkpoint may bring its own; anything else is refused."""

    # A grammar: the two names, doubled braces that stand for one, and what is no brace.
    PART = re.compile(r"\{query\}|\{task\}|\{\{|\}\}|[^{}]", re.DOTALL)
    PIECES = st.sampled_from(["{query}", "{task}", "{", "}", "{{", "}}", "{0}", "{}", "!r", " "])
    LITERALS = st.lists(st.sampled_from(["{{", "}}"]) | st.text("a \n%$", max_size=2)).map("".join)

    @given(template=st.lists(PIECES | st.text(max_size=3), max_size=6).map("".join))
    @example(template="")
    @example(template="{query}")
    @example(template="{{query}}")
    @example(template="{{{query}}}")
    @example(template="{query}{task}{query}")
    @example(template="{query}}")
    @example(template="{query.x} {query}")
    @example(template="{ query }")
    @example(template="{query!r}")
    def test_it_has_the_query_once_the_task_at_most_once_and_nothing_else(
        self, template: str
    ) -> None:
        parts = self.PART.findall(template)
        names = sorted(part for part in parts if part in ("{query}", "{task}"))
        fits = "".join(parts) == template and names in (["{query}"], ["{query}", "{task}"])
        assert is_template(template) == fits

    @given(
        parts=st.tuples(LITERALS, LITERALS, st.just("{query}"), st.sampled_from(["", "{task}"]))
        .map(list)
        .flatmap(st.permutations),
        task=st.text(),
        query=st.text(),
    )
    def test_a_template_takes_any_task_and_query_as_they_are(
        self, parts: list[str], task: str, query: str
    ) -> None:
        template, task = "".join(parts), f"Find {task}"
        assert is_template(template)
        values = {"{query}": query, "{task}": task, "{{": "{", "}}": "}"}
        by_hand = "".join(values.get(part, part) for part in self.PART.findall(template))
        assert query_prompt(task, query, prompts=Prompts(template)) == by_hand

    def test_e5s_own_is_one_and_the_default(self) -> None:
        assert is_template(TEMPLATE)
        assert query_prompt("NQ", "snow", prompts=Prompts(TEMPLATE)) == query_prompt("NQ", "snow")

    def test_queries_and_symmetric_documents_follow_it_bare_texts_do_not(self) -> None:
        template = "query: {query}"
        assert query_prompt("NQ", "snow", prompts=Prompts(template)) == "query: snow"
        assert document_prompt("sts_query", "snow", prompts=Prompts(template)) == "query: snow"
        assert (
            document_prompt("x", "snow", symmetric=True, prompts=Prompts(template)) == "query: snow"
        )
        assert document_prompt("NQ", "snow", prompts=Prompts(template)) == "snow"
        assert query_prompt("", "snow", prompts=Prompts(template)) == "snow"


class TestPromptsByName:
    """What sentence-transformers calls prompts: each text begins as its name says."""

    WEB, LAW = (
        f"Instruct: {task}\nQuery: " for task in (DEFAULT_TASK, "Given a question, find statutes")
    )

    @pytest.mark.parametrize("texts", [{}, {"query": "", "document": ""}, {"law": ""}])
    def test_empty_ones_say_nothing(self, texts: dict[str, str]) -> None:
        assert prompts_from_names(texts) is None

    def test_those_of_e5s_authors_are_what_we_do_without_them(self) -> None:
        texts = {name: f"Instruct: {TASKS[name].instruction}\nQuery: " for name in HUB}
        assert prompts_from_names(texts) == Prompts()
        assert prompts_from_names({**texts, "query": "", "document": ""}) == Prompts()
        assert prompts_from_names({"query": self.WEB}) == Prompts()
        assert prompts_from_names(texts, "web_search_query") == Prompts()

    @pytest.mark.parametrize(
        ("texts", "default", "template", "before_document"),
        [
            ({"query": "query: "}, None, "query: {query}", ""),
            ({"query": "query: ", "document": "passage: "}, None, "query: {query}", "passage: "),
            ({"query": "q ", "passage": "p ", "document": ""}, None, "q {query}", "p "),
            ({"query": "q ", "corpus": "c "}, None, "q {query}", "c "),
            ({"query": "q ", "document": "d ", "passage": "p "}, None, "q {query}", "d "),
            ({"web_search_query": "q: "}, None, "q: {query}", ""),
            ({"search": "s: "}, "search", "s: {query}", ""),
            ({"search": "s: ", "query": "q: "}, "search", "q: {query}", ""),
            ({"query": "q: ", "document": "d: "}, "document", "q: {query}", "d: "),
            ({"query": LAW}, None, TEMPLATE, ""),
            ({"law": LAW}, "law", TEMPLATE, ""),
            ({"law": LAW}, None, TEMPLATE, ""),
            ({"query": "Instruct: Find.\nQuery:"}, None, "Instruct: {task}\nQuery:{query}", ""),
            ({"query": f"<{DEFAULT_TASK}> "}, None, "<{task}> {query}", ""),
            ({"query": f"{{{DEFAULT_TASK}: "}, None, "{{{task}: {query}", ""),
            ({"sts_query": "Retrieve semantically similar text.| "}, None, "{task}| {query}", ""),
            ({"query": "law: ", "law": "law "}, None, "law: {query}", ""),
        ],
    )
    def test_the_template_is_that_of_the_prompt_of_queries(
        self, texts: dict[str, str], default: str | None, template: str, before_document: str
    ) -> None:
        prompts = prompts_from_names(texts, default)
        assert prompts is not None
        assert is_template(prompts.template)
        assert (prompts.template, prompts.before_document) == (template, before_document)

    def test_the_queries_prompt_is_that_of_all_that_name_no_task(self) -> None:
        prompts = prompts_from_names({"query": self.LAW, "sts_query": "STS: ", "Law": self.WEB})
        assert prompts is not None
        for task in ("web_search_query", "MSMARCO", DEFAULT_TASK):
            assert query_prompt(task, "x", prompts=prompts) == f"{self.LAW}x"
        assert query_prompt("law", "x", prompts=prompts) == f"{self.WEB}x"
        assert query_prompt("Find it", "x", prompts=prompts) == "Instruct: Find it\nQuery: x"
        assert query_prompt("", "x", prompts=prompts) == "x"
        assert document_prompt("sts_query", "x", prompts=prompts) == "STS: x"
        assert document_prompt("", "x", prompts=prompts) == "x"

    @pytest.mark.parametrize(
        ("texts", "default", "reason"),
        [
            ({"sts": "STS: "}, None, "none that is certainly that of queries"),
            ({"document": "passage: "}, None, "none that is certainly that of queries"),
            ({"passage": "p: ", "law": LAW}, None, "none that is certainly that of queries"),
            ({"document": "d: "}, "document", "none that is certainly that of queries"),
            ({"search_document": "d: "}, "search_document", "none that is certainly that of"),
            ({"a": LAW, "b": "Instruct: B\nQuery:"}, None, "none that is certainly"),
            ({"query": LAW, "web_search_query": WEB}, None, "the task of all that name none"),
            ({"law": LAW, "web_search_query": WEB}, "law", "the task of all that name none"),
            ({"STS": "a", "sts": "b", "query": "q"}, None, 'two prompts of the name "sts"'),
            ({"query": "Instruct: {task}\nQuery: {query}"}, None, "has a placeholder"),
            ({"query": "q: ", "law": "{}"}, None, 'the prompt "law" has a placeholder'),
        ],
    )
    def test_what_is_not_certain_is_an_error_that_says_why(
        self, texts: dict[str, str], default: str | None, reason: str
    ) -> None:
        with pytest.raises(ValueError, match=reason):
            prompts_from_names(texts, default)

    NAMES = st.sampled_from(["query", "document", "corpus", "law", "STS", "sts_query", *EXTRA])
    STARTS = st.text("ab:{ ", max_size=4) | st.sampled_from([WEB, LAW, "Instruct: A\nQuery:"])

    @given(st.dictionaries(NAMES, STARTS), NAMES | st.none(), st.text())
    def test_a_text_begins_with_the_prompt_of_its_name(
        self, texts: dict[str, str], default: str | None, text: str
    ) -> None:
        try:
            prompts = prompts_from_names(texts, default)
        except ValueError:
            return
        if prompts is None:
            assert not any(texts.values())
            return
        for name in texts.keys() - {"query", "document", "corpus"}:
            assert query_prompt(name, text, prompts=prompts) == texts[name] + text
        before_document = texts.get("document") or texts.get("corpus", "")
        assert document_prompt("", text, prompts=prompts) == before_document + text
        of_default = "" if default in ("document", "corpus") else texts.get(str(default), "")
        if before_query := texts.get("query") or of_default:
            assert query_prompt(DEFAULT_TASK, text, prompts=prompts) == before_query + text
