//! Commands of the user that change the server: revoking the pair, restarting.

use tokio::process::Command;

use super::{Site, Who};
use crate::check::rule::{Miss, broken};

impl Site {
    /// Runs a shell command with the pair's id in `ORION_CHECK_PAIR`.
    ///
    /// # Errors
    /// It failed.
    pub async fn shell(&self, command: &str) -> Result<(), Miss> {
        let pair = self.pair().await?;
        let run = Command::new("sh")
            .args(["-c", command])
            .env("ORION_CHECK_PAIR", pair)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .status()
            .await;
        match run {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => broken(format!("the command failed: {status}")),
            Err(error) => broken(format!("the command cannot be run: {error}")),
        }
    }

    /// Fetches tokens anew from now on.
    pub async fn forget_tokens(&self) {
        self.tokens.lock().await.clear();
    }

    /// Revokes the pair, once in a run.
    ///
    /// # Errors
    /// The command failed.
    pub async fn revoke(&self) -> Result<(), Miss> {
        let mut revoked = self.revoked.lock().await;
        if !*revoked {
            // Tokens from before, to see that they are worth nothing afterwards.
            self.forget_tokens().await;
            for who in [Who::Phone, Who::Mac] {
                self.token(who).await?;
            }
            let command = self.config.revoke_command.as_deref().unwrap_or("false");
            self.shell(command).await?;
            *revoked = true;
        }
        Ok(())
    }
}
