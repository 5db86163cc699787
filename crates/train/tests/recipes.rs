//! Recipes, right and wrong: every broken one is answered by an error that names the line and the key, none by a panic.

use std::path::Path;

use luthier_train::parse::{Origin, Resolved, Source};
use luthier_train::recipe::{Every, EveryWord};

const GOOD: &str = r#"seed = 7

[model]
path = "models/tiny"

[[stage]]
name = "adapt"
objective = { kind = "mlm", probability = 0.2 }
data = { train = "texts.txt", unit = "paragraph" }
train = { steps = 100, learning_rate = 1e-4 }

[[stage]]
name = "intents"
objective = { kind = "classify" }
data = { train = "train.csv", test = "test.csv", dev = 0.1, label = "category" }
method = [{ kind = "lora", rank = 4, on = ["query", "value"] }, { kind = "bitfit" }]
stabilise = [{ kind = "reinit", layers = 1 }]
train = { batch = 16, learning_rate = 5e-4, warmup = 0.1, checkpoint = 50 }
evaluate = { every = "epoch", metric = "accuracy", patience = 3 }
"#;

fn resolve(text: &str, sets: &[&str]) -> luthier_train::Result<Resolved> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Source::new(Path::new("/recipes/recipe.toml"), text.as_bytes().to_vec())?.resolve(&sets)
}

/// The message of a recipe that must be refused.
fn refused(text: &str, sets: &[&str]) -> String {
    let error = resolve(text, sets).expect_err("a broken recipe");
    assert!(error.is_user_input(), "{error}");
    error.to_string()
}

/// The good recipe with one change.
fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

#[test]
fn a_good_recipe_is_resolved() {
    let resolved = resolve(GOOD, &[]).expect("the good recipe");
    let recipe = &resolved.recipe;
    assert_eq!((recipe.seed, recipe.stage.len()), (7, 2));
    let [adapt, intents] = recipe.stage.as_slice() else { panic!("two stages") };
    assert_eq!(recipe.model.path.as_deref(), Some(Path::new("/recipes/models/tiny")));
    assert_eq!(intents.data.train, Path::new("/recipes/train.csv"));
    assert_eq!(intents.train.checkpoint, Every::Steps(50));
    assert_eq!(intents.evaluate.every, Every::Word(EveryWord::Epoch));
    // A stage that says neither `epochs` nor `steps` takes three epochs, as transformers' Trainer does.
    assert_eq!((intents.train.epochs, intents.train.steps), (Some(3.0), None));
    assert_eq!((adapt.train.epochs, adapt.train.steps), (None, Some(100)));
    assert_eq!(intents.method.iter().map(|method| method.kind()).collect::<Vec<_>>(), ["lora", "bitfit"]);
    assert_eq!(adapt.method.iter().map(|method| method.kind()).collect::<Vec<_>>(), ["full"]);
}

#[test]
fn every_value_says_where_it_comes_from() {
    let resolved = resolve(GOOD, &["stage.intents.train.batch=8", "stage.1.method.lora.alpha=32"]).expect("a recipe");
    let origin = |key: &str| resolved.origin.get(key).unwrap_or_else(|| panic!("{key} has an origin")).clone();
    assert_eq!(origin("seed"), Origin::Recipe { line: 1 });
    assert_eq!(origin("model.path"), Origin::Recipe { line: 4 });
    assert_eq!(origin("stage.intents.method.0.rank"), Origin::Recipe { line: 16 });
    assert_eq!(origin("stage.intents.method.0.rslora"), Origin::Default);
    assert_eq!(origin("stage.intents.train.epochs"), Origin::Default);
    assert_eq!(origin("stage.adapt.method.0.kind"), Origin::Default);
    assert_eq!(origin("stage.intents.train.batch"), Origin::Set { argument: "stage.intents.train.batch=8".to_owned() });
    let alpha = Origin::Set { argument: "stage.1.method.lora.alpha=32".to_owned() };
    assert_eq!(origin("stage.intents.method.0.alpha"), alpha);
}

#[test]
fn the_resolved_recipe_reads_back_from_any_folder() {
    let sets = ["stage.adapt.data.train=odd \"name\"\t#1.txt", "stage.intents.train.epsilon=1e-6"];
    let new = "[model.new]\nvocabulary = 64\ntext = \"t.txt\"\nconfig = { model_type = \"bert\", list = [1, { a = 2.5 }], \"odd key\" = true, empty = {} }\n";
    for text in [GOOD.to_owned(), changed("[model]\npath = \"models/tiny\"\n", new)] {
        let resolved = resolve(&text, &sets).expect("a recipe");
        let written = resolved.to_toml_with_origins();
        assert!(written.contains("batch = 16 # recipe.toml:"), "{written}");
        assert!(written.contains("epsilon = 1e-6 # --set stage.intents.train.epsilon=1e-6"), "{written}");
        assert!(written.contains("beta2 = 0.999 # default"), "{written}");
        let source = Source::new(Path::new("/elsewhere/run/recipe.toml"), written.clone().into_bytes()).expect("UTF-8");
        let again = source.resolve(&[]).unwrap_or_else(|error| panic!("{error}\n{written}"));
        let json = |resolved: &Resolved| serde_json::to_value(&resolved.recipe).expect("JSON");
        assert_eq!(json(&again), json(&resolved), "{written}");
    }
}

#[test]
fn overrides_reach_every_place() {
    let resolved = resolve(
        GOOD,
        &[
            "seed=9",
            "stage.0.train.epochs=0.5",
            "stage.intents.evaluate.every=20",
            "stage.intents.data.train=other/train.tsv",
            "stage.intents.method=[{ kind = \"top\", layers = 2 }]",
            "stage.intents.train.schedule = cosine",
        ],
    )
    .expect("a recipe");
    assert_eq!(resolved.recipe.seed, 9);
    let [adapt, intents] = resolved.recipe.stage.as_slice() else { panic!("two stages") };
    // `epochs` replaces the file's `steps`: both together mean nothing.
    assert_eq!((adapt.train.epochs, adapt.train.steps), (Some(0.5), None));
    assert_eq!(intents.evaluate.every, Every::Steps(20));
    assert_eq!(intents.data.train, Path::new("/recipes/other/train.tsv"));
    assert_eq!(intents.method[0].kind(), "top");
}

#[test]
fn broken_recipes_are_answered_with_line_and_key() {
    let stage = "[[stage]]\nname = \"adapt\"";
    // A change of the good recipe, and what the answer must contain.
    let cases: &[(&str, &str, &[&str])] = &[
        // TOML itself.
        ("seed = 7", "seed = ", &["recipe.toml:1:", "not TOML"]),
        ("[model]", "[model", &["recipe.toml:3:", "not TOML"]),
        ("seed = 7", "seed = 7\nseed = 8", &["recipe.toml:2:1", "duplicate key"]),
        ("\"models/tiny\"", "\"models/tiny", &["recipe.toml:4:"]),
        ("seed = 7", "seed = 7 8", &["recipe.toml:1:"]),
        // Unknown keys, with the nearest known one.
        (
            "rank = 4",
            "rnak = 4",
            &["recipe.toml:16:28: unknown key `rnak` in method lora; did you mean `rank`? (known: "],
        ),
        ("seed = 7", "sed = 7", &["recipe.toml:1:1: unknown key `sed` in the recipe", "did you mean `seed`?"]),
        ("path = ", "pth = ", &["recipe.toml:4:1: unknown key `pth` in model", "`path`?"]),
        (
            "name = \"intents\"",
            "nme = \"intents\"",
            &["recipe.toml:13:1", "unknown key `nme`", "missing key `name` in stage"],
        ),
        ("probability = 0.2", "propability = 0.2", &["recipe.toml:8:", "objective mlm", "`probability`?"]),
        ("category", "category\", lable = \"x", &["recipe.toml:15:", "unknown key `lable` in data", "`label`?"]),
        ("batch = 16", "batchsize = 16", &["recipe.toml:18:11: unknown key `batchsize` in train", "`batch`"]),
        ("patience = 3", "patients = 3", &["recipe.toml:19:", "unknown key `patients` in evaluate", "`patience`?"]),
        (
            "name = \"intents\"",
            "name = \"intents\"\nepochs = 3",
            &["unknown key `epochs` in stage; it belongs in `train`"],
        ),
        // Wrong types.
        ("seed = 7", "seed = \"seven\"", &["recipe.toml:1:8: `seed` is the text", "expected a whole number from 0"]),
        ("seed = 7", "seed = -7", &["recipe.toml:1:8: `seed` is `-7`, expected a whole number from 0"]),
        ("seed = 7", "seed = 99999999999999999999", &["`seed` is `99999999999999999999`", "too large"]),
        ("seed = 7", "seed = 1979-05-27", &["`seed` is a date or time"]),
        ("batch = 16", "batch = 16.5", &["recipe.toml:18:19: `batch` is `16.5`, expected a whole number"]),
        ("5e-4", "\"5e-4\"", &["recipe.toml:18:", "`learning_rate` is the text", "expected a number"]),
        ("5e-4", "nan", &["`learning_rate` is `NaN`, expected a finite number"]),
        ("5e-4", "inf", &["`learning_rate` is `inf`, expected a finite number"]),
        ("dev = 0.1", "dev = true", &["recipe.toml:15:", "`dev` is `true`, expected a number or text in quotes"]),
        ("[model]\npath =", "model =", &["`model` is the text", "expected a table"]),
        (
            "method = [{ kind = \"lora\", rank = 4, on = [\"query\", \"value\"] }, { kind = \"bitfit\" }]",
            "method = { kind = \"lora\" }",
            &["recipe.toml:16:10: `method` is a table, expected a list"],
        ),
        (
            "{ kind = \"bitfit\" }",
            "\"bitfit\"",
            &["recipe.toml:16:", "`method` is the text", "expected a table such as { kind = \"full\" }"],
        ),
        ("[\"query\", \"value\"]", "\"query\"", &["recipe.toml:16:", "`on` is the text", "expected a list"]),
        ("test = \"test.csv\"", "test = 3", &["`test` is `3`, expected text in quotes"]),
        // Unknown words and kinds.
        ("\"bitfit\"", "\"bitfti\"", &["recipe.toml:16:74: unknown method `bitfti`; did you mean `bitfit`?"]),
        ("kind = \"reinit\", ", "", &["recipe.toml:17:14: missing key `kind` in stabilise"]),
        ("\"classify\"", "\"clasify\"", &["recipe.toml:14:22: unknown objective `clasify`; did you mean `classify`?"]),
        ("\"classify\"", "7", &["recipe.toml:14:22: `kind` of objective is `7`"]),
        ("\"query\"", "\"qeury\"", &["recipe.toml:16:", "`on` is", "did you mean `query`?"]),
        ("\"epoch\"", "\"epcoh\"", &["recipe.toml:19:22: `every` is", "did you mean `epoch`?"]),
        ("warmup = 0.1", "schedule = \"liner\"", &["recipe.toml:18:", "`schedule`", "did you mean `linear`?"]),
        ("warmup = 0.1", "precision = \"fp16\"", &["`precision` is", "`f32`, `bf16`"]),
        ("\"paragraph\"", "\"chapter\"", &["recipe.toml:9:", "`unit` is", "`line`, `paragraph`"]),
        // Missing keys.
        ("[model]\npath = \"models/tiny\"\n", "", &["recipe.toml:1:", "missing key `model` in the recipe"]),
        ("objective = { kind = \"classify\" }\n", "", &["recipe.toml:12:1: missing key `objective` in stage"]),
        ("train = \"train.csv\", ", "", &["recipe.toml:15:8: missing key `train` in data", "The training file"]),
        // Values that mean nothing.
        ("path = \"models/tiny\"", "", &["recipe.toml:3:1: model says neither `path`"]),
        ("path = \"models/tiny\"", "path = \"\"", &["recipe.toml:4:8: `path` is empty"]),
        (
            "path = \"models/tiny\"",
            "path = \"a\"\nnew = { config = { model_type = \"bert\" }, vocabulary = 100, text = \"t\" }",
            &["recipe.toml:5:7: `path` and `new` exclude each other"],
        ),
        (
            "path = \"models/tiny\"",
            "new = { config = {}, vocabulary = 2, text = \"t\" }",
            &["recipe.toml:4:", "`vocabulary` is 2", "`model_type`"],
        ),
        ("\"intents\"", "\"adapt\"", &["recipe.toml:13:8: stage 1 is called `adapt` as stage 0 is"]),
        ("\"intents\"", "\"Adapt\"", &["recipe.toml:13:8: stage 1 is called `Adapt`"]),
        ("\"intents\"", "\"../up\"", &["recipe.toml:13:8: `name` is", "the name of a folder"]),
        ("\"intents\"", "\"\"", &["recipe.toml:13:8: `name` is"]),
        ("\"intents\"", "\"17\"", &["recipe.toml:13:8: `name` is"]),
        ("steps = 100", "steps = 100, epochs = 3", &["recipe.toml:10:", "`epochs` and `steps` exclude each other"]),
        ("steps = 100", "steps = 0", &["recipe.toml:10:19: `steps` is 0, expected 1 or more"]),
        ("steps = 100", "epochs = -1", &["`epochs` is -1, expected a number above 0"]),
        ("5e-4", "0.0", &["recipe.toml:18:", "`learning_rate` is 0, expected a number above 0"]),
        ("batch = 16", "batch = 0", &["`batch` is 0, expected 1 or more"]),
        ("warmup = 0.1", "warmup = -0.1", &["`warmup` is -0.1, expected 0, a fraction"]),
        ("warmup = 0.1", "warmup = 10.5", &["`warmup` is 10.5"]),
        ("warmup = 0.1", "beta2 = 1.0", &["`beta2` is 1, expected 0 up to"]),
        ("warmup = 0.1", "epsilon = 0", &["`epsilon` is 0"]),
        ("warmup = 0.1", "weight_decay = -1", &["`weight_decay` is -1, expected 0 or more"]),
        ("warmup = 0.1", "token_budget = 0", &["`token_budget` is 0"]),
        ("checkpoint = 50", "checkpoint = 0", &["recipe.toml:18:", "`checkpoint` is 0, expected 1 step or more"]),
        ("dev = 0.1", "dev = 1.0", &["recipe.toml:15:", "`dev` is 1, expected a fraction above 0 and below 1"]),
        ("dev = 0.1", "dev = 0.1, max_length = 2", &["`max_length` is 2, expected 3 or more"]),
        ("dev = 0.1, ", "", &["recipe.toml:19:", "`patience` needs development data", "`metric` needs"]),
        ("every = \"epoch\"", "every = \"never\"", &["`patience` needs evaluations"]),
        ("\"accuracy\"", "\"acuracy\"", &["recipe.toml:19:40: there is no metric `acuracy`; did you mean `accuracy`?"]),
        ("\"accuracy\"", "\"perplexity\"", &["recipe.toml:19:40: metric `perplexity` does not apply"]),
        (
            "\"train.csv\"",
            "\"train.txt\"",
            &["recipe.toml:15:", "the objective classify needs labels, and plain text has none"],
        ),
        ("dev = 0.1", "dev = 0.1, pack = true", &["recipe.toml:15:", "`pack` would join texts with different labels"]),
        ("unit = \"paragraph\"", "pair = \"b\", pack = true, format = \"csv\"", &["recipe.toml:9:", "pairs are not"]),
        (
            "unit = \"paragraph\"",
            "overlong = \"drop\"",
            &["recipe.toml:9:", "`overlong` does nothing where texts are packed"],
        ),
        ("unit = \"paragraph\"", "label = \"x\"", &["recipe.toml:9:", "`label` does nothing"]),
        ("unit = \"paragraph\"", "text = \"x\"", &["recipe.toml:9:", "`text` does nothing: plain text has no columns"]),
        ("dev = 0.1", "unit = \"paragraph\", dev = 0.1", &["`unit` does nothing: a csv file has rows"]),
        ("label = \"category\"", "label = \"text\"", &["`label` and `text` are both the column `text`"]),
        ("dev = 0.1", "dev = 0.1, pair = \"text\"", &["`pair` and `text` are both the column `text`"]),
        ("probability = 0.2", "probability = 1.5", &["recipe.toml:8:", "probability is 1.5"]),
        (stage, "[[stages]]\nname = \"adapt\"", &["recipe.toml:6:", "unknown key `stages` in the recipe", "`stage`?"]),
    ];
    for (from, to, expected) in cases {
        let answer = refused(&changed(from, to), &[]);
        for part in *expected {
            assert!(answer.contains(part), "{from} -> {to}\nanswer: {answer}\nlacks:  {part}");
        }
    }
    assert!(cases.len() >= 60, "{}", cases.len());
}

#[test]
fn broken_overrides_are_answered_with_themselves() {
    let cases: &[(&str, &[&str])] = &[
        ("seed", &["--set `seed`", "found no `=`"]),
        ("seed=", &["--set `seed=`", "no value"]),
        ("=3", &["--set `=3`", "a part of the key is empty"]),
        ("stage..train=3", &["a part of the key is empty"]),
        ("sead=3", &["--set `sead=3`: unknown key `sead` in the recipe", "`seed`?"]),
        ("seed=x", &["--set `seed=x`: `seed` is the text", "expected a whole number"]),
        ("seed.deep=3", &["`seed` is `7`, not a table with keys"]),
        ("stage.intent.train.batch=3", &["`stage` has no `intent`; did you mean `intents`?", "0 `adapt`, 1 `intents`"]),
        ("stage.2.train.batch=3", &["`stage` has no `2`", "(there are 2: 0 `adapt`, 1 `intents`)"]),
        (
            "stage.intents.train.epohcs=3",
            &["--set `stage.intents.train.epohcs=3`: unknown key `epohcs` in train; did you mean `epochs`?"],
        ),
        ("stage.intents.method=[{ kind =", &["--set", "the value is not TOML"]),
        ("stage.intents.method.lora.rnak=1", &["unknown key `rnak` in method lora"]),
        ("seed=1\nmodel.path=\"x\"", &["--set", "`seed` is the text"]),
        ("a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r=1", &["more parts"]),
    ];
    for (set, expected) in cases {
        let answer = refused(GOOD, &[set]);
        for part in *expected {
            assert!(answer.contains(part), "{set}\nanswer: {answer}\nlacks:  {part}");
        }
    }
    // `steps` beside an `epochs` that is an override too.
    let both = ["stage.adapt.train.steps=3", "stage.adapt.train.epochs=3"];
    assert!(refused(GOOD, &both).contains("exclude each other"));
}

#[test]
fn all_problems_come_at_once() {
    let text = GOOD.replace("rank", "rnak").replace("batch = 16", "batch = \"x\"").replace("seed", "sead");
    let answer = refused(&text, &["stage.0.nme=1"]);
    let lines: Vec<&str> = answer.lines().collect();
    assert_eq!(lines.len(), 4, "{answer}");
    // In the order of the file, overrides last.
    assert!(lines[0].starts_with("recipe.toml:1:1: "), "{answer}");
    assert!(lines[1].starts_with("recipe.toml:16:"), "{answer}");
    assert!(lines[2].starts_with("recipe.toml:18:"), "{answer}");
    assert!(lines[3].starts_with("--set "), "{answer}");
}

#[test]
fn hostile_files_are_refused() {
    assert!(refused("", &[]).contains("missing key `model`"));
    assert!(refused("\u{feff}\n", &[]).contains("missing key `model`"));
    let nested = format!("seed = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refused(&nested, &[]).contains("recipe.toml:1:"));
    let tables = format!("seed = {}1{}", "{a=".repeat(100_000), "}".repeat(100_000));
    assert!(refused(&tables, &[]).contains("recipe.toml:1:"));
    let keys = format!("a{} = 1", ".a".repeat(200_000));
    assert!(refused(&keys, &[]).contains("recipe.toml:1:"));
    let headers = format!("[a{}]\n", ".a".repeat(200_000));
    assert!(refused(&headers, &[]).contains("recipe.toml:1:"));
    let many: String = (0..40_000).map(|i| format!("key{i} = {i}\n")).collect();
    let answer = refused(&many, &[]);
    assert!(answer.contains("and 39952 more problems in /recipes/recipe.toml"), "{}", answer.len());
    let long = format!("{} = 1", "k".repeat(900_000));
    assert!(refused(&long, &[]).len() < 1000);
    let large = Source::new(Path::new("recipe.toml"), vec![b'#'; (1 << 20) + 1]).expect_err("too large").to_string();
    assert!(large.contains("larger than 1048576 bytes"), "{large}");
    let latin = Source::new(Path::new("recipe.toml"), b"seed = 1\nname = \"caf\xe9\"".to_vec());
    let answer = latin.expect_err("not UTF-8").to_string();
    assert_eq!(answer, "recipe.toml:2:12: is not UTF-8; save the recipe as UTF-8");
    let missing = Source::read(Path::new("no/such/recipe.toml"), &[]).expect_err("no file");
    assert!(missing.is_user_input() && missing.to_string().starts_with("no/such/recipe.toml: "), "{missing}");
    let folder = Source::read(Path::new("."), &[]).expect_err("a folder");
    assert!(folder.to_string().contains("cannot be read"), "{folder}");
}

/// Cut, flipped, doubled, swapped: whatever comes, there is an answer.
#[test]
fn mutations_never_panic() {
    let rng = luthier_random::Rng::at(11, "mutations", 0, 0);
    let mut drawn = 0;
    let mut draw = |n: usize| {
        drawn += 1;
        (rng.uniform(drawn) * n as f64) as usize
    };
    let bits: &[&str] = &[
        "[",
        "]",
        "{",
        "}",
        "=",
        "\"",
        "'",
        "\n",
        ".",
        "#",
        "-1",
        "1e999",
        "nan",
        "true",
        "\u{0}",
        "é",
        "[[stage]]",
        "kind",
        ",",
    ];
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..=draw(3) {
            let at = draw(bytes.len());
            match draw(5) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = draw(256) as u8,
                2 => drop(bytes.remove(at)),
                3 => drop(bytes.splice(at..at, bits[draw(bits.len())].bytes())),
                _ => {
                    let end = (at + draw(40)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = draw(bytes.len());
                    drop(bytes.splice(to..to, piece));
                }
            }
        }
        let answer = Source::new(Path::new("/recipes/recipe.toml"), bytes).and_then(|source| source.resolve(&[]));
        refused += usize::from(answer.is_err());
    }
    assert!((1500..3000).contains(&refused), "{refused} of 3000 were refused");
}

#[test]
fn the_schema_tells_an_editor_every_key() {
    let schema = luthier_train::schema::schema();
    let stage = schema.pointer("/$defs/Stage/properties").and_then(|keys| keys.as_object()).expect("stages");
    for key in ["name", "objective", "data", "method", "stabilise", "train", "evaluate"] {
        assert!(stage[key].get("description").is_some(), "{key}");
    }
    assert_eq!(schema.pointer("/$defs/Train/properties/batch/default"), Some(&serde_json::json!(32)));
    assert_eq!(schema.pointer("/$defs/Train/additionalProperties"), Some(&serde_json::json!(false)));
}
