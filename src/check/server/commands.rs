//! The user's commands that change the server: revoking the pair, restarting.

use tokio::process::Command;

use super::{Party, ServerUnderTest};
use crate::check::finding::{CaseError, violation};

impl ServerUnderTest {
    /// Runs a shell command with the pair's id in `ORION_CHECK_PAIR`.
    ///
    /// # Errors
    /// The command failed.
    pub async fn shell(&self, command: &str) -> Result<(), CaseError> {
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
            Ok(status) => violation(format!("the command failed: {status}")),
            Err(error) => violation(format!("cannot run the command: {error}")),
        }
    }

    /// Forgets cached tokens; they are fetched again.
    pub async fn forget_tokens(&self) {
        self.tokens.lock().await.clear();
    }

    /// Revokes the pair, only once per run.
    ///
    /// # Errors
    /// The command failed.
    pub async fn revoke(&self) -> Result<(), CaseError> {
        let mut revoked = self.revoked.lock().await;
        if !*revoked {
            // These tokens, from before the revocation, must not be accepted
            // afterward.
            self.forget_tokens().await;
            for party in [Party::Phone, Party::Mac] {
                self.token(party).await?;
            }
            let command = self.config.revoke_command.as_deref().unwrap_or("false");
            self.shell(command).await?;
            *revoked = true;
        }
        Ok(())
    }
}
