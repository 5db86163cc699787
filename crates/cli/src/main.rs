//! `luthier`: the command line. It reads arguments, prints and sets exit codes; everything else is the libraries' work.

mod answers;
mod args;
mod commands;
mod environment;
mod failure;
mod fault;
mod kinds;
mod render;
mod screen;
mod signals;
mod stream;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;

use args::{Args, Command};
use environment::Environment;
use failure::{DONE, Wrong, exit_code};
use luthier_train::Instructions;
use render::paint::Paint;
use screen::Screen;

fn main() -> ExitCode {
    let start = Instant::now();
    fault::install();
    let args = Args::parse();
    let environment = Environment::read();
    let screen = Screen::new(args.json, &environment);
    let code = on_threads(&args, || run(&args, &environment, screen, start)).unwrap_or_else(|error| {
        let code = exit_code(&error);
        if code.is_some() {
            let title = Paint { on: environment.error_colour }.red("error:");
            let _ = writeln!(io::stderr(), "{title} {error}");
        }
        code.unwrap_or(DONE)
    });
    ExitCode::from(code)
}

/// Calls `f` on one of the threads that compute, so that it need not wait for them to wake up at every operation.
fn on_threads<R: Send>(args: &Args, f: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let threads = args.threads.map_or(0, usize::from);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(f)
}

/// Limits the instructions to a set that somebody named.
fn limit(name: &OsStr) -> Result<()> {
    let Some(most) = Instructions::ALL.into_iter().find(|set| name == set.name()) else {
        let known = Instructions::ALL.map(Instructions::name).join(", ");
        let found = name.to_string_lossy();
        return Err(Wrong(format!("LUTHIER_INSTRUCTIONS is {found:?}, expected one of: {known}")).into());
    };
    Instructions::limit(most);
    Ok(())
}

/// Runs the command; the exit code of a command that did not fail.
fn run(args: &Args, environment: &Environment, screen: Screen, start: Instant) -> Result<u8> {
    if let Some(name) = &environment.instructions {
        limit(name)?;
    }
    match &args.command {
        Command::Train(arguments) => return commands::train::train(arguments, environment, screen, start),
        Command::Evaluate(arguments) => commands::evaluate::evaluate(arguments, environment, screen)?,
        Command::Predict(arguments) => commands::predict::predict(arguments, screen)?,
        Command::Bench(arguments) => commands::bench::bench(arguments, screen)?,
        Command::Schema => commands::schema::schema(screen)?,
        Command::Plan(arguments) => commands::plan::plan(arguments, screen)?,
        Command::Data(arguments) => commands::data::data(arguments, environment, screen)?,
        Command::Methods(arguments) => commands::methods::methods(arguments, screen)?,
        Command::Export(arguments) => commands::export::run_export(arguments, screen)?,
    }
    Ok(DONE)
}
